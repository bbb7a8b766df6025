"""A command that is interrupted ends with its code, whatever its threads still compute."""

import subprocess
import sys

import pytest

COMPUTING = """
import atexit, sys, threading, time
import torch
from raydd import cli

def compute():
    x = torch.ones(200, 200, requires_grad=True)
    while True:
        (x @ x).sum().backward()

for _ in range(4):
    threading.Thread(target=compute, daemon=True).start()
time.sleep(0.5)
atexit.register(print, "registered")
cli.run = lambda arguments: int(sys.argv[1])
cli.main([])
"""


@pytest.mark.parametrize("code", [130, 143, 1])
def test_threads_that_compute_do_not_abort_the_process(code):
    command = [sys.executable, "-c", COMPUTING, str(code)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (code, "registered\n", "")
