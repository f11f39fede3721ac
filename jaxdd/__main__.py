"""python -m jaxdd: the command `jaxdd`."""

from jaxdd.programs.cli import main

if __name__ == "__main__":
    main()
