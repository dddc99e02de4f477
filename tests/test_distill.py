"""Distillation: each loss against its formula in plain loops, features against the channels that the plan keeps."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import prunus
from prunus.errors import InputError, PlanError
from prunus.train import EMA, Checkpoints, fit
from prunus.train.distill import (
    Distill,
    Features,
    Logits,
    SelfTeacher,
    attention,
    dist,
    dkd,
    fitnet,
    hinton,
    kept_channels,
    relational,
    similarity,
    with_outputs,
)

draw = torch.Generator().manual_seed(0)
S = torch.randn(5, 4, generator=draw, dtype=torch.float64)
T = 3 * torch.randn(5, 4, generator=draw, dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 1])
A = torch.randn(5, 3, 2, 2, generator=draw, dtype=torch.float64)
B = torch.randn(5, 6, 2, 2, generator=draw, dtype=torch.float64)


def soft(logits, temperature):
    return np.array([[math.exp(v / temperature) for v in row] for row in logits.tolist()])


def probabilities(logits, temperature):
    e = soft(logits, temperature)
    return e / e.sum(1, keepdims=True)


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_hinton():
    p, q = probabilities(T, 3.0), probabilities(S, 3.0)
    expected = 9 * np.mean([kl(p[i], q[i]) for i in range(5)])
    assert float(hinton(S, T, temperature=3.0)) == pytest.approx(expected)
    wrong_way = 9 * np.mean([kl(q[i], p[i]) for i in range(5)])
    assert abs(expected - wrong_way) > 0.01
    assert float(hinton(S[None], T[None], temperature=3.0)) == pytest.approx(expected)  # [batch, tokens, words]


def test_dkd():
    p, q = probabilities(T, 2.0), probabilities(S, 2.0)
    target, others = [], []
    for i, y in enumerate(Y.tolist()):
        target.append(kl([p[i, y], 1 - p[i, y]], [q[i, y], 1 - q[i, y]]))
        rest_p, rest_q = np.delete(p[i], y), np.delete(q[i], y)
        others.append(kl(rest_p / rest_p.sum(), rest_q / rest_q.sum()))
    expected = 4 * (0.5 * np.mean(target) + 3 * np.mean(others))
    assert float(dkd(S, T, Y, temperature=2.0, alpha=0.5, beta=3.0)) == pytest.approx(expected)
    with pytest.raises(InputError, match="class indices"):
        dkd(S, T)


def test_dist():
    p, q = probabilities(T, 2.0), probabilities(S, 2.0)
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(5)])
    intra = np.mean([1 - np.corrcoef(p[:, j], q[:, j])[0, 1] for j in range(4)])
    found = float(dist(S, T, temperature=2.0, beta=0.5, gamma=2.0))
    assert found == pytest.approx(4 * (0.5 * inter + 2 * intra), rel=1e-6)


def test_attention():
    def maps(a):
        flat = np.square(a.numpy()).sum(1).reshape(5, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = np.square(maps(A) - maps(B)).sum(1).mean()
    assert float(attention(A, B)) == pytest.approx(expected)
    tokens = [a.flatten(2).transpose(1, 2) for a in (A, B)]  # [N, T, C]
    assert float(attention(*tokens)) == pytest.approx(expected)


def test_similarity():
    def gram(a):
        flat = a.flatten(1).numpy()
        g = flat @ flat.T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    expected = np.square(gram(A) - gram(B)).sum() / 25
    assert float(similarity(A, B)) == pytest.approx(expected)


def huber(a, b):
    d = abs(a - b)
    return 0.5 * d * d if d < 1 else d - 0.5


def test_relational():
    s, t = S.numpy(), T.numpy()
    pairs = list(itertools.permutations(range(5), 2))

    def distances(x):
        found = [np.linalg.norm(x[i] - x[j]) for i, j in pairs]
        return np.array(found) / np.mean(found)

    far = np.mean([huber(a, b) for a, b in zip(distances(s), distances(t), strict=True)])

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = list(itertools.permutations(range(5), 3))
    wide = np.mean([huber(cosine(s, *ijk), cosine(t, *ijk)) for ijk in triples])
    assert float(relational(S, T, distance=2.0, angle=3.0)) == pytest.approx(2 * far + 3 * wide)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1))
        self.flat = nn.Flatten()
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.flat(x + self.body(x)))


def made():
    torch.manual_seed(3)
    return Net().eval()


X = torch.randn(6, 2, 4, 4, generator=draw)
LABELS = torch.tensor([0, 1, 2, 3, 1, 2])


def masked(model, plan):
    """The original with everything that goes at zero, biases and shifts too."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, cut in plan.kept.items():
            tensor = copied.state_dict()[name]
            for dim, indices in cut.items():
                tensor.index_fill_(dim, torch.tensor([i for i in range(tensor.shape[dim]) if i not in indices]), 0)
    return copied


def test_kept_channels_are_the_students():
    """At every module, the masked teacher at the kept channels gives what the student gives."""
    teacher = made()
    small = prunus.prune(teacher, X, ratio=0.5)
    plan = small.prunus_plan
    paths = ["stem", "norm", "body.0", "body", "flat", "head"]
    kept = kept_channels(teacher, plan, paths, X)
    assert list(kept["stem"]) == list(kept["body"]) == [1]
    assert kept["head"] == {}
    assert len(kept["flat"][1]) == 4 * 16
    assert tuple(kept["body.0"][1].tolist()) == plan.kept["body.0.weight"][0]
    seen = {}
    for model, side in ((masked(teacher, plan), "t"), (small.eval(), "s")):
        for path in paths:
            model.get_submodule(path).register_forward_hook(
                lambda m, i, out, key=(side, path): seen.__setitem__(key, out.detach())
            )
        model(X)
    for path in paths:
        theirs = seen["t", path]
        for dim, indices in kept[path].items():
            theirs = theirs.index_select(dim, indices)
        torch.testing.assert_close(seen["s", path], theirs, msg=lambda m, p=path: f"{p}: {m}")
    with pytest.raises(InputError, match="no module 'bodi' to tap. Did you mean 'body'"):
        kept_channels(teacher, plan, ["bodi"], X)
    assert not teacher.body._forward_hooks


def test_several_terms_are_weighted():
    teacher = made()
    small = prunus.prune(teacher, X, ratio=0.5).train()
    plan = small.prunus_plan
    terms = [
        Logits("hinton", 0.5, {"temperature": 2.0}),
        Features("body", weight=3.0),
        Features("stem", compare="attention", weight=2.0),
        Features("head", compare="relational"),
        Features("flat", compare="similarity", weight=4.0),
    ]
    loss = Distill(teacher, terms, task_weight=0.25, student=small, example=X)
    found = loss(small, [X, LABELS])
    seen = {}
    for model, side in ((teacher, "t"), (small, "s")):
        for path in ("body", "stem", "flat"):
            model.get_submodule(path).register_forward_hook(
                lambda m, i, out, key=(side, path): seen.__setitem__(key, out)
            )
    ours, theirs = small(X), teacher(X)
    body = seen["t", "body"][:, list(plan.kept["stem.weight"][0])]
    expected = (
        0.25 * F.cross_entropy(ours, LABELS)
        + 0.5 * hinton(ours, theirs, temperature=2.0)
        + 3 * fitnet(seen["s", "body"], body)
        + 2 * attention(seen["s", "stem"], seen["t", "stem"])
        + relational(ours, theirs)
        + 4 * similarity(seen["s", "flat"], seen["t", "flat"])
    )
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert small.stem.weight.grad is not None
    assert not teacher.training and small.training


def test_the_student_comes_nearer():
    teacher = made()
    small = prunus.prune(teacher, X, ratio=0.5)
    loss = Distill(teacher, [Features("body", weight=1.0)], task_weight=0, student=small, example=X)
    before = float(loss(small, [X, LABELS]).detach())
    fit(small, [[X, LABELS]] * 5, epochs=8, lr=0.01, loss=loss)
    assert float(loss(small, [X, LABELS]).detach()) < 0.5 * before


def test_several_teachers_count_alike():
    first, second, student = made(), made(), made()
    with torch.no_grad():
        second.head.weight.mul_(-2)
    student.train()
    found = Distill([first, second], task_weight=0)(student, [X, LABELS])
    out = student(X)
    torch.testing.assert_close(found, (hinton(out, first(X)) + hinton(out, second(X))) / 2)


def test_a_teacher_in_half_precision_is_a_copy():
    teacher, student = made(), made()
    loss = Distill(teacher, task_weight=0, dtype=torch.bfloat16)
    found = loss(student, [X, LABELS])
    half = copy.deepcopy(teacher).bfloat16()(X.bfloat16()).float()
    torch.testing.assert_close(found, hinton(student(X), half))
    assert teacher.head.weight.dtype == torch.float32


def test_cached_outputs_are_the_teachers():
    teacher, student = made(), made()
    data = with_outputs(teacher, TensorDataset(X, LABELS), batch_size=4)
    batch = next(iter(DataLoader(data, 3)))
    torch.testing.assert_close(batch[2], teacher(X[:3]).detach())
    cached, running = Distill(None), Distill(teacher)
    torch.testing.assert_close(cached(student, batch), running(student, batch[:2]))
    fit(student, DataLoader(data, 3), epochs=1, loss=cached)


def test_ones_own_average_teaches():
    model = made()
    teacher = SelfTeacher(model, 0.5)
    average = EMA(model, 0.5)
    fit(model, [[X, LABELS]] * 4, epochs=1, loss=Distill(teacher.teacher), hooks=[teacher, average])
    for name, value in average.average.items():
        torch.testing.assert_close(teacher.teacher.get_parameter(name).detach(), value)
    assert torch.equal(teacher.teacher.norm.running_mean, model.norm.running_mean)
    assert not torch.equal(teacher.teacher.head.weight, model.head.weight)


def test_an_adapter_for_a_student_of_another_make():
    teacher = made()
    student = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Flatten(), nn.Linear(80, 4))
    adapter = nn.Conv2d(5, 8, 1)
    term = Features("0", "stem", adapter=adapter)
    found = Distill(teacher, term, task_weight=0)(student, [X, LABELS])
    torch.testing.assert_close(found, F.mse_loss(adapter(student[0](X)), teacher.stem(X)))
    with pytest.raises(InputError, match="'0' gives \\[6, 5, 4, 4\\] in the student, 'stem' \\[6, 8, 4, 4\\]"):
        Distill(teacher, Features("0", "stem"))(student, [X, LABELS])


def test_an_adapter_is_resumed_with_the_run(tmp_path):
    """Cut short after three of eight steps, and gone on with: the student and the adapter are those of a whole run."""

    def run(folder, stop_at=None):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Flatten(), nn.Linear(80, 4))
        adapter = nn.Conv2d(5, 8, 1)
        loss = Distill(made(), Features("0", "stem", adapter=adapter))
        sgd = torch.optim.SGD([*student.parameters(), *adapter.parameters()], lr=0.1, momentum=0.9)
        steps = itertools.count(1)

        def count(progress):
            if next(steps) == stop_at:
                raise KeyboardInterrupt

        saved = Checkpoints(folder, every=1)
        fit(student, [[X, LABELS]] * 4, epochs=2, optimizer=sgd, loss=loss, checkpoints=saved, on_progress=count)
        return [*student.parameters(), *adapter.parameters()]

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=4)
    for a, b in zip(run(tmp_path / "cut"), whole, strict=True):
        assert torch.equal(a, b)


def bert(width, layers, inner):
    """The library, where it is installed, and a config for three classes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=inner,
        max_position_embeddings=12,
        num_labels=3,
    )
    return transformers, config


def test_cached_outputs_of_a_transformer():
    transformers, config = bert(8, 1, 8)
    torch.manual_seed(0)
    teacher, student = (transformers.BertForSequenceClassification(config).eval() for _ in range(2))
    with torch.no_grad():
        teacher.classifier.weight.mul_(100)
    ids = torch.randint(0, 30, (5, 7))
    data = [{"input_ids": each, "labels": torch.tensor(i % 3)} for i, each in enumerate(ids)]
    batch = next(iter(DataLoader(with_outputs(teacher, data, 2), 5)))
    torch.testing.assert_close(batch["teacher_logits"], teacher(ids).logits)
    found = Distill(None)(student, batch)
    torch.testing.assert_close(found, Distill(teacher)(student, {k: batch[k] for k in ("input_ids", "labels")}))
    assert not torch.allclose(found, student(ids, labels=batch["labels"]).loss)  # the teacher counts


def test_hidden_states_of_a_transformer():
    transformers, config = bert(16, 2, 20)
    torch.manual_seed(0)
    teacher = transformers.BertForSequenceClassification(config).eval()
    ids = {"input_ids": torch.randint(0, 30, (4, 7)), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    small = prunus.prune(teacher, ids, ratio=0.5)
    hidden = [f"bert.encoder.layer.{i}" for i in range(2)]
    loss = Distill(teacher, [Logits(), *map(Features, hidden)], student=small, example=ids)
    batch = {**ids, "labels": torch.tensor([0, 1, 2, 0])}
    small.eval()
    found = loss(small, batch)
    states = {}
    for model, side in ((teacher, "t"), (small, "s")):
        states[side] = model(**batch, output_hidden_states=True)
    (kept,) = {tuple(k[2].tolist()) for k in loss.kept[0].values()}
    assert len(kept) == small.bert.embeddings.word_embeddings.weight.shape[1]
    expected = states["s"].loss + hinton(states["s"].logits, states["t"].logits)
    for mine, theirs in zip(states["s"].hidden_states[1:], states["t"].hidden_states[1:], strict=True):
        expected = expected + F.mse_loss(mine, theirs[..., list(kept)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Distill(made().train()), InputError, "in training mode: teacher.eval"),
        (lambda: Distill(None, Features("stem")), InputError, "needs a teacher that runs"),
        (lambda: Logits("hintn"), InputError, "Did you mean 'hinton'"),
        (lambda: Features("stem", compare="rkd"), InputError, "no way 'rkd' to compare"),
        (lambda: Distill(None)(made(), [X, LABELS]), InputError, "with_outputs"),
        (
            lambda: Distill(made(), Features("stem"), student=prunus.prune(made(), X, ratio=0.5)),
            InputError,
            "example= is needed",
        ),
        (
            lambda: Distill(nn.Linear(2, 2).eval(), Features("stem"), student=prunus.prune(made(), X), example=X),
            PlanError,
            "this one has none",
        ),
    ],
)
def test_what_is_wrong_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()
