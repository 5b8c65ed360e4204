"""Recipes of ``jaxgen curate``: the papers' data sets from videos, tables, pages and images."""
