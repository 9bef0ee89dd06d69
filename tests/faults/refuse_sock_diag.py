"""Become a command to which the kernel refuses sock_diag, by seccomp, as a profile may."""

import errno
import os
import sys

from tests.kernel.confined import refuse_sock_diag

refuse_sock_diag(errno.EPERM)
os.execv(sys.argv[1], sys.argv[1:])
