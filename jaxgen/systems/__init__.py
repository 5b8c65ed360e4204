"""Systems: how the models of one paper are put together, as pure functions over parameters."""
