"""``shapes``: a world of drawn scenes for every task, endless, seeded and exactly scored.

``geneval`` is text to image in the manner of GenEval's six tasks. Everything else draws ``scenes``:
edits, references, series of images and dialogues, as ``problems`` whose answers are known.
``jaxgen.evaluation`` reads the scenes back from pixels.
"""
