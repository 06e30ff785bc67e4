"""Run unit tests of a service that PyPI has, and print how each ended, as JSON."""

import json
import sys
import unittest
import warnings


class Endings(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.rows = {}

    def addSuccess(self, test):
        self.rows[test.id()] = "passed"

    def addFailure(self, test, error):
        self.rows[test.id()] = f"failed: {error[1]!r}"

    def addError(self, test, error):
        self.rows[test.id()] = f"error: {error[1]!r}"

    def addSkip(self, test, reason):
        self.rows[test.id()] = f"skipped: {reason}"


warnings.simplefilter("ignore")
endings = Endings()
unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:]).run(endings)
print(json.dumps(endings.rows))
