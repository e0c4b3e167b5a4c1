"""`python -m parity_tests`: the doctor."""

import sys

from parity_tests.doctor import doctor_main

if __name__ == "__main__":
    sys.exit(doctor_main())
