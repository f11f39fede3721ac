"""`jaxdd evaluate`, from a clone: python -m experiments.evaluate."""

from jaxdd.programs.evaluate import cli

if __name__ == "__main__":
    cli()
