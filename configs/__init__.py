"""Configs: one Python file per stage, derived by mutation from its system's base."""
