"""DuetGen: both stages, joint training, and small runs on drawn dialogues."""
