"""`jaxdd tables`, from a clone: python -m experiments.tables."""

from jaxdd.programs.tables import cli

if __name__ == "__main__":
    cli()
