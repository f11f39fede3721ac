"""The programs of the command `jaxdd`, one a module, a screen or two each."""
