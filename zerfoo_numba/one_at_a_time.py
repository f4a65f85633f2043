"""One thread at a time: a model has one sequence, one cache and one set of buffers."""

import functools


def one_at_a_time(*names):
    """A class decorator: the methods `names` wait until no other thread is in one of them.

    An instance has its `lock`, an RLock, so that one such method may call another.
    """

    def decorate(kind):
        for name in names:
            setattr(kind, name, _waiting(getattr(kind, name)))
        return kind

    return decorate


def _waiting(method):
    @functools.wraps(method)
    def wrapper(self, *arguments, **options):
        with self.lock:
            return method(self, *arguments, **options)

    return wrapper
