"""`jaxdd doctor`, from a clone: python -m experiments.doctor."""

from jaxdd.programs.doctor import cli

if __name__ == "__main__":
    cli()
