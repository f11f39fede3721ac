"""`jaxdd train`, from a clone: python -m experiments.train."""

from jaxdd.programs.train import cli

if __name__ == "__main__":
    cli()
