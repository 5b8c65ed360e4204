"""Configs: one Python file per stage, derived from its system's base config."""
