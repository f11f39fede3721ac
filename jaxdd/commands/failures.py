"""Failures of the machine rather than of the program: no space, no permission, no memory, no such device."""

import errno

_REMEDIES = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of your quota, or write elsewhere",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "give a place that can be written to",
    errno.EACCES: "change its permissions, or give another place",
    errno.EPERM: "change its permissions, or give another place",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "check the disk",
}
# What a library may report as an error of its own while it writes or reads a file for us.
_PASSED_ON = set(_REMEDIES)


def line(error: BaseException) -> str | None:
    """A failure of the machine as one line with its remedy; None for any other error, which is a mistake of ours."""
    if isinstance(error, MemoryError):
        return f"out of memory ({str(error) or 'an allocation failed'}); use smaller or fewer images or batches"
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in text:
        return f"out of memory on the device ({text}); use smaller batches or images, or lower `memory_gib`"
    if isinstance(error, RuntimeError) and text.startswith("Unable to initialize backend"):
        return f"no such device: {text}; correct JAX_PLATFORMS"
    if isinstance(error, ValueError) and "embedded null" in text:
        return "a path has a null byte, which no file has; correct it"
    failed = _system_error(error)
    if failed is None:
        return None
    remedy = _REMEDIES.get(failed.errno or 0, "correct the path, or give another one")
    # Of two names, the first is that of a file aside.
    place = failed.filename if failed.filename2 is None else failed.filename2
    return f"{failed.strerror}{'' if place is None else f': {str(place)!r}'}; {remedy}"


def _system_error(error: BaseException) -> OSError | None:
    """The refusal of the operating system that is the error, or was its cause."""
    if isinstance(error, OSError):
        return error if error.errno else None
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _PASSED_ON:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
