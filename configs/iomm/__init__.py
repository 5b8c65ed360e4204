"""IOMM: every stage of the paper, and the small runs on shapes and photographs."""
