"""`jaxdd export`, from a clone: python -m experiments.export."""

from jaxdd.programs.export import cli

if __name__ == "__main__":
    cli()
