"""Plans a training step for absent hardware: compiles it and reports memory, FLOPs and traffic."""
