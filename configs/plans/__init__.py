"""Shapes to plan for hardware that nobody holds yet; `jaxgen plan`, docs/scaling.md."""
