"""Query-Kontext: every stage of the paper, and small runs on drawn scenes."""
