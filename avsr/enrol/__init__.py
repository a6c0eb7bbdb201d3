"""Enrolment: clear video of one person -> lips that know this person, kept under a name on this machine alone.

    videos -> the ears write the words (as `avsr prepare --label`), or --text -> [ adapt on some, check on the others ] -> adapt
    on all -> a model folder that names the lips it adds to, and holds what differs
The files: people (names, and what is kept of whom), videos (what is read, and whether it shows one person), material (text and
mouths), texts (words that the user gives), adaptation (what is trained), check (what the lips are worth), run (all of it).
"""

from avsr.enrol.check import Check
from avsr.enrol.people import Person, delete, enrolled
from avsr.enrol.run import Enrolled, EnrolSettings, enrol

__all__ = ["Check", "EnrolSettings", "Enrolled", "Person", "delete", "enrol", "enrolled"]
