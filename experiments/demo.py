"""`jaxdd demo`, from a clone: python -m experiments.demo."""

from jaxdd.programs.demo import cli

if __name__ == "__main__":
    cli()
