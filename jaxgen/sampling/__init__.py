"""From texts to images: noise schedules, solvers, guidance and the batched loop around them."""
