"""The flags of each command, which imports what it needs when it runs: ``--help`` is quick."""
