"""IOMM: every stage of the paper, and small runs on shapes and photographs."""
