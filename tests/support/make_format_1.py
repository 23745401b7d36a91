"""Make ``format_1.tar.xz``, with the package of commit 0d443e0 on the path and not with this one:
``python make_format_1.py FOLDER``, in which the archive is then. See ``older_folders.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import torch
from asr.data.manifest import load_waveform, read_cuts
from asr.data.synthetic.corpus import prepare_synthetic
from asr.evaluate.decode import decode_set
from asr.model_folder import load_model, save_model

from asr import config
from asr.model import Recogniser
from asr.search.options import SearchOptions
from asr.text.tokenizer import load_tokenizer

SIZE = [
    "features.num_mels=8",
    "encoder.kind=transformer",
    "encoder.num_layers=2",
    "encoder.dim=8",
    "encoder.ff_dim=8",
    "encoder.subsampling_channels=2",
    "attention.num_heads=2",
    "tokenizer.kind=char",
    "encoder.intermediate_ctc=[1]",
    "encoder.intermediate_ctc_weight=0.4",
    "train.cr_ctc=0.2",
]
RUN = [
    "augment.max_freq_mask=2",
    "train.epochs=2",
    "train.global_batch_s=8",
    "train.max_batch_s=8",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=2",
    "train.log_steps=1",
    "train.validate_steps=11",
    "train.ema_decay=0.9",
    "optimizer.lr=0.01",
    "data.train=[corpus/train.cuts.jsonl.gz]",
    "data.dev=[corpus/dev.cuts.jsonl.gz]",
]

os.chdir(sys.argv[1])
prepare_synthetic(Path("corpus"), hours=0.025, seed=3, num_jobs=1, num_dev=4, num_test=6)
train = ["-m", "asr.cli", "train", *SIZE, *RUN]
two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
subprocess.run([sys.executable, *train, "--exp", "plain"], check=True)
subprocess.run(
    [sys.executable, *two, *train, "train.parallel=fsdp", "encoder.dropout=0", "--exp", "sharded"],
    check=True,
)
for exp in (Path("plain"), Path("sharded")):
    (last,) = (exp / "checkpoints").glob("step-00000022.*")
    shutil.rmtree(last) if last.is_dir() else last.unlink()
    shutil.rmtree(exp / "model")
    record = json.loads((exp / "run.json").read_text())
    del record["environment"]  # of the machine
    (exp / "run.json").write_text(json.dumps(record, indent=2))

made = Path("made")
cfg = config.load([], SIZE)
tokenizer = load_tokenizer(Path("plain/tokenizer"))
torch.manual_seed(0)
net = Recogniser(cfg, tokenizer.vocab_size).eval()
with torch.no_grad():
    wave_n = torch.from_numpy(
        load_waveform(next(iter(read_cuts(Path("corpus/test.cuts.jsonl.gz")))), 16000)
    )
    encoded_btd, _ = net.encoder(
        *net.normalised_features(wave_n[None], torch.tensor([len(wave_n)]))
    )
    net.head.weight *= 30
    net.head.bias -= net.head.weight @ encoded_btd[0].mean(0)  # else every frame says the same
save_model(made / "model", net.state_dict(), cfg, tokenizer)
for search in ("greedy", "beam"):
    test = Path("corpus/test.cuts.jsonl.gz")
    decode_set(load_model(made), test, made / search, options=SearchOptions(search=search))
    (made / search / "decode.json").unlink()
with tarfile.open("format_1.tar.xz", "w:xz", preset=9) as archive:

    def anonymous(item):
        item.uid = item.gid = item.mtime = 0
        item.uname = item.gname = ""
        return item

    for name in ("plain", "sharded", "made"):
        archive.add(name, filter=anonymous)
