"""Configs for `jaxgen plan` on hardware that is not at hand; see docs/scaling.md."""
