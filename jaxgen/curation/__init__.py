"""Pipelines that build data sets: records in, samples out, with a reason for every drop."""
