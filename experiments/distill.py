"""`jaxdd distill`, from a clone: python -m experiments.distill."""

from jaxdd.programs.distill import cli

if __name__ == "__main__":
    cli()
