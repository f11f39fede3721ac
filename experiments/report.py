"""`jaxdd report`, from a clone: python -m experiments.report."""

from jaxdd.programs.report import cli

if __name__ == "__main__":
    cli()
