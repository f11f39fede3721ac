"""`jaxdd relabel`, from a clone: python -m experiments.relabel."""

from jaxdd.programs.relabel import cli

if __name__ == "__main__":
    cli()
