"""The only code that touches the outside; one file for one outside system."""
