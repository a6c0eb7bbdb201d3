"""Published models that `avsr fetch` gets: name -> description, licence and files. A new one is a new entry.

None of the addresses of lip readers could be tried where this program is made: they are those of public scripts and pages. No
revision is known, so what the hub announces at the first fetch (revision, size, sha256) is written down and held to.
"""

from __future__ import annotations

from avsr.download import Remote
from avsr.fetch.source import Source

HUB = "https://huggingface.co"
# The sha256 is that of the file at this commit.
LR_ASD_FILE = Remote("finetuning_TalkSet.model",
                     "https://github.com/Junhua-Liao/LR-ASD/raw/1b6dcd2d/weight/finetuning_TalkSet.model", 3_426_337,
                     "sha256:6b4ef53694e874e96cf630198dc479c78aebb3993bbf166aee3d926dfe7d9342")
# The tokenizer of auto_avsr and its kin, in their authors' repository, whose INSTRUCTION.md gives the MD5.
TOKENIZER_FILES = {
    "pieces": Remote("unigram5000.model",
                     "https://raw.githubusercontent.com/mpc001/auto_avsr/main/spm/unigram/unigram5000.model",
                     checksum="md5:f2f6e8407b86538cf0c635a534eda799"),
    "units": Remote("unigram5000_units.txt",
                    "https://raw.githubusercontent.com/mpc001/auto_avsr/main/spm/unigram/unigram5000_units.txt",
                    checksum="md5:e652da86609085b8f77e5cffcd1943bd"),
}
VSR_ML = "https://github.com/mpc001/Visual_Speech_Recognition_for_Multiple_Languages"
AUTO_AVSR = "https://github.com/mpc001/auto_avsr"
VSR_ML_LICENCE = ("its authors allow non-commercial research alone, and their code only to compare and to benchmark; LRS3, on "
                  "which it was trained, allows research alone; what an uploader says does not replace that")
AUTO_AVSR_LICENCE = ("its authors' code is Apache-2.0, and its weights may be under the terms of what they were trained on: "
                     "LRS2 and LRS3 are for research alone; what an uploader says does not replace that")


def _published(name: str, what: str, size: str, weights: Remote, *, lips: bool = True, of: str = VSR_ML,
               keep: str | None = None) -> Source:
    """A model of auto_avsr's family, with its tokenizer. weights: a .pth, or a .zip with the file that `keep` matches."""
    use = "--model tiny.en --lips {folder}" if lips else "--model {folder}"
    return Source(
        name=name, kind="model", what=what, size=size, licence=VSR_ML_LICENCE if of == VSR_ML else AUTO_AVSR_LICENCE, terms=of,
        cite="Ma, Petridis and Pantic, Nature Machine Intelligence (2022)" if of == VSR_ML
        else "Ma, Haliassos, Fernandez-Lopez, Chen, Petridis and Pantic, ICASSP (2023)",
        use=f"avsr transcribe talk.mp4 {use}", must_agree=True, keep=keep,
        parts={"weights": weights.name, **{part: one.name for part, one in TOKENIZER_FILES.items()}},
        default=("weights", *TOKENIZER_FILES), files={one.name: one for one in (weights, *TOKENIZER_FILES.values())})


def _on_hub(path: str) -> Remote:
    """A file of the hub, `owner/repository/resolve/main/file` (a Space has `spaces/` before it)."""
    return Remote(path.rpartition("/")[2], f"{HUB}/{path}")


_ML_ZIPS = "quakumei/Visual_Speech_Recognition_for_Multiple_Languages/resolve/main"
MODELS = {
    source.name: source
    for source in (
        Source(
            name="lr-asd",
            kind="model",
            what="LR-ASD: a network that tells who speaks, for --speaker-model",
            size="3.4 MB",
            licence="MIT; but it was trained on VoxCeleb2 and LRS3, whose terms may bind what is made with it (LRS3's forbid "
            "commercial use)",
            terms="https://github.com/Junhua-Liao/LR-ASD",
            cite="Liao, Duan, Feng, Zhao, Yang, Chen and Chen, IJCV (2025)",
            use="avsr transcribe talk.mp4 --speakers --speaker-model {folder}",
            parts={"lr-asd": LR_ASD_FILE.name},
            default=("lr-asd",),
            files={LR_ASD_FILE.name: LR_ASD_FILE},
            must_agree=True,
        ),
        _published("vsr-lrs3", "a lip reader of 19.1 % WER on LRS3, as its authors report; English", "0.9 GB",
                   _on_hub("Amanvir/LRS3_V_WER19.1/resolve/main/model.pth")),
        _published("vsr-lrs3-mirror", "the same lip reader from another uploader", "0.9 GB",
                   _on_hub("willwade/LRS3_V_WER19.1/resolve/main/model.pth")),
        _published("vsr-lrs3-space", "the same lip reader from its author's Space", "0.9 GB",
                   _on_hub("spaces/mpc001/auto_avsr/resolve/main/benchmarks/LRS3/models/LRS3_V_WER19.1/model.pth"),
                   of=AUTO_AVSR),
        _published("vsr-lrs3-zip", "the same lip reader as its authors packed it", "0.9 GB",
                   _on_hub(f"{_ML_ZIPS}/LRS3_V_WER19.1.zip"), keep=r"(.*/)?model\.pth"),
        _published("asr-lrs3-zip", "by sound alone, 1.0 % WER on LRS3, as its authors report; English", "0.9 GB",
                   _on_hub(f"{_ML_ZIPS}/LRS3_A_WER1.0.zip"), lips=False, keep=r"(.*/)?model\.pth"),
        _published("avsr-lrs3-zip", "by sound and lips together, 0.9 % WER on LRS3, as its authors report; English", "1.5 GB",
                   _on_hub(f"{_ML_ZIPS}/LRS3_AV_WER0.9.zip"), lips=False, keep=r"(.*/)?model\.pth"),
        _published("avsr-mcorec", "auto_avsr by sound and lips together, 0.93 % WER on LRS3, as its authors report; English",
                   "1.8 GB", _on_hub("MCoRecChallenge/MCoRec-baseline/resolve/main/model-bin.zip"), lips=False, of=AUTO_AVSR,
                   keep=r"(.*/)?avsr_trlrwlrs2lrs3vox2avsp_base\.pth"),
    )
}
