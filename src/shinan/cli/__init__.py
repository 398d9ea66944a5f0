"""The command line: parse, call, print. Heavy imports stand inside the commands, so that `--help` is quick."""
