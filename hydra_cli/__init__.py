"""The command line for people and pipelines; one file is one group of commands."""
