"""`asr lm`: text -> a language model, a smaller one, and how well it predicts a text."""

from __future__ import annotations

import argparse
import math

from asr.commands.options import Verbs, at_least_one, count, path
from asr.errors import InputError


def add(verbs: Verbs) -> None:
    parser = verbs.add_parser("lm", help="text -> a language model; pruning; perplexity")
    parts = parser.add_subparsers(required=True, metavar="ACTION")

    train = parts.add_parser("train", help="text -> a modified Kneser-Ney n-gram (ARPA)")
    _add_text_options(train)
    train.add_argument("--order", type=int, default=3, help="words per n-gram, 1 to 5")
    train.add_argument("--out", type=path, required=True, help="NAME.arpa or NAME.arpa.gz to write")
    train.set_defaults(run=run_train)

    prune = parts.add_parser("prune", help="an ARPA file -> a smaller one, by relative entropy")
    prune.add_argument("arpa", type=path, metavar="IN", help="NAME.arpa or NAME.arpa.gz to read")
    size = prune.add_mutually_exclusive_group()
    size.add_argument(
        "--threshold",
        type=at_least_zero,
        help="keep n-grams whose removal raises the perplexity by this part or more, as 1e-8",
    )
    size.add_argument(
        "--ngrams", type=at_least_one, metavar="N", help="keep at most N n-grams of all orders"
    )
    prune.add_argument(
        "--words",
        type=at_least_one,
        metavar="N",
        help="keep the N most frequent words; default: all",
    )
    prune.add_argument("--out", type=path, required=True, help="NAME.arpa or NAME.arpa.gz to write")
    prune.set_defaults(run=run_prune)

    neural = parts.add_parser(
        "train-neural", help="text -> a small LSTM that rescores n-best lists"
    )
    _add_text_options(neural)
    neural.add_argument("--model", type=path, required=True, help="model whose tokenizer is used")
    neural.add_argument("--epochs", type=int, default=10, help="passes over the text")
    neural.add_argument("--dim", type=int, default=256, help="width")
    neural.add_argument(
        "--seed", type=int, default=1, help="random seed for initialisation and shuffling"
    )
    neural.add_argument("--threads", type=count, default=0, help="CPU threads; 0: PyTorch's choice")
    neural.add_argument("--out", type=path, required=True, help="folder to write")
    neural.set_defaults(run=run_train_neural)

    perplexity = parts.add_parser("perplexity", help="how well an ARPA file predicts a text")
    perplexity.add_argument("--lm", type=path, required=True, help="NAME.arpa or NAME.arpa.gz")
    _add_text_options(perplexity)
    perplexity.set_defaults(run=run_perplexity)


def run_train(args: argparse.Namespace) -> int:
    from asr.lm.arpa import write_arpa
    from asr.lm.kneser_ney import estimate
    from asr.lm.text import read_sentences
    from asr.text.normalise import get_normaliser

    sentences = read_sentences(args.text, get_normaliser(args.normaliser), args.ids)
    model, discounts = estimate(sentences, args.order)
    write_arpa(model, args.out)
    for order, (level, discount) in enumerate(zip(model.levels, discounts, strict=True), start=1):
        values = " ".join(f"{value:.4f}" for value in discount.values)
        how = "" if discount.estimated else " (too little text to estimate them: fixed)"
        print(f"{order}-grams {len(level.keys):9d}  discounts {values}{how}")
    print(f"written to {args.out}")
    return 0


def run_prune(args: argparse.Namespace) -> int:
    from asr.lm.arpa import read_arpa, write_arpa
    from asr.lm.prune import prune

    if args.threshold is args.ngrams is args.words is None:
        raise InputError("asr lm prune: one of --threshold, --ngrams and --words is required")
    model = read_arpa(args.arpa)
    pruned = prune(model, args.threshold or 0.0, args.ngrams, args.words)
    write_arpa(pruned.model, args.out)
    kept = [len(level.keys) for level in pruned.model.levels]
    for order, level in enumerate(model.levels, start=1):
        num = kept[order - 1] if order <= len(kept) else 0
        print(f"{order}-grams {num:9d} of {len(level.keys):9d}")
    print(f"threshold {pruned.threshold:.4g}\nwritten to {args.out}")
    return 0


def run_train_neural(args: argparse.Namespace) -> int:
    from asr.lm.neural import NeuralConfig, save_neural, train_neural
    from asr.lm.text import read_sentences
    from asr.model.folder import find_model
    from asr.runtime import prepare_cpu
    from asr.text.coverage import check_training_texts
    from asr.text.normalise import get_normaliser
    from asr.text.tokenizer import load_tokenizer

    prepare_cpu(args.threads)
    for name in ("epochs", "dim"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}: must be at least 1")
    tokenizer = load_tokenizer(find_model(args.model))
    sentences = read_sentences(args.text, get_normaliser(args.normaliser), args.ids)
    texts = [" ".join(words) for words in sentences]
    files = ", ".join(map(str, args.text))
    advice = "the text must be in the spelling of the recogniser's transcripts (--normaliser)"
    check_training_texts(texts, tokenizer, files, advice)
    sequences = [tokenizer.encode(text) for text in texts]
    config = NeuralConfig(tuple(tokenizer.pieces), dim=args.dim)
    model = train_neural(
        sequences,
        config,
        epochs=args.epochs,
        seed=args.seed,
        report=lambda line: print(line, flush=True),
    )
    save_neural(model, args.out)
    print(f"written to {args.out}")
    return 0


def run_perplexity(args: argparse.Namespace) -> int:
    from asr.lm.arpa import read_arpa
    from asr.lm.ngram import perplexity
    from asr.lm.text import read_sentences
    from asr.text.normalise import get_normaliser

    sentences = read_sentences(args.text, get_normaliser(args.normaliser), args.ids)
    found = perplexity(read_arpa(args.lm), sentences)
    print(
        f"{found.num_sentences} sentences, {found.num_words} words, {found.num_unknown} unknown\n"
        f"perplexity {found.with_unknown:.2f}; without the unknown words {found.without_unknown:.2f}"
    )
    return 0


def at_least_zero(text: str) -> float:
    """A finite number of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of 0 or more")
    return value


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        type=path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="a sentence per line (also .gz, .xz), or manifests of cuts",
    )
    parser.add_argument(
        "--ids",
        action="store_true",
        help="each line begins with an id and a space or tab, as in LibriSpeech's .trans.txt",
    )
    parser.add_argument(
        "--normaliser", default="lowercase-apostrophe", help="applied to every line; or none"
    )
