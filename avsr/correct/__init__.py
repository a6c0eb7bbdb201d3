"""Text to text: n-best lists of sound, lips and both to the corrected text (`--correct`), as T5 does every task.

    Recogniser -> lists (lists.py) -> Corrector (corrector.py) -> CorrectedRecogniser (recogniser.py)
Inside: vocabulary, network, folder; collect (lists of clips in noise), simulate, data and train make one.
"""

from avsr.correct.corrector import Correction, Corrector, open_corrector
from avsr.correct.recogniser import CorrectedRecogniser, corrected

__all__ = ["CorrectedRecogniser", "Correction", "Corrector", "corrected", "open_corrector"]
