"""What holds for every process of the tests, and is read when libraries are imported."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in these tests may depend on a network
# for models this small, more threads only wait for one another; and waiting takes nothing from other processes
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
