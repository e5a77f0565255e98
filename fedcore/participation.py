"""One worker's part in a round: local training with what it remembers and what is its own."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedcore.data.dataset import Dataset
from fedcore.initial import initial_state, load_into
from fedcore.local import module_for, train_locally
from fedcore.metrics import measure
from fedcore.models import Blueprint
from fedcore.remembering import Remembered, Remembering, Step
from fedcore.rules import Anchored
from fedcore.trees import Params
from fedcore.values import Brief, ModelState, Update

__all__ = ["blank", "moved_norm", "participate", "start_loss", "used_by", "whole"]


def participate(
    brief: Brief, data: Dataset, *, worker: str, remembered: Remembered
) -> tuple[Update, Remembered]:
    """The update, of the tensors that travel, and what the worker remembers from now on."""
    model = whole(brief, remembered)
    rule, memory = brief.rule, remembered.rule or blank(brief.remembering, model)
    if brief.remembering is not None:
        rule = brief.remembering.completed(memory)
    measures = {}
    if "start_loss" in brief.needs:
        measures["start_loss"] = start_loss(replace(brief, model=model), data)
    update = train_locally(replace(brief, model=model, rule=rule), data, worker=worker)
    trained = {name: tensor for name, tensor in update.trained.items() if name in brief.model.names}
    if "norm" in brief.needs:
        measures["norm"] = moved_norm(trained, brief.model)
    learnt: Mapping[str, Tensor] = {}
    if brief.remembering is not None:
        steps = torch.tensor(update.measures["steps"], dtype=torch.float64)
        step = Step(model.parameters, trained, steps, brief.plan.learning_rate)
        learnt = brief.remembering.learnt(memory, step)
    own = _own(brief, data, remembered, update, worker=worker)
    made = replace(update, trained=trained, measures={**update.measures, **measures})
    return made, Remembered(learnt, own)


def whole(brief: Brief, remembered: Remembered) -> ModelState:
    """The model that a worker trains: what it received, with its own tensors where it has some.

    Tensors that never travel start as the training's settings say, at every worker alike.
    """
    if brief.personal is None or brief.personal.anchor is not None:
        return brief.model
    first = _first(brief.blueprint, brief.plan.seed)
    return first.replaced(remembered.own).replaced(brief.model.tensors)


def used_by(brief: Brief, remembered: Remembered) -> ModelState:
    """The model that a worker uses: as it is trained, or the whole one of its own."""
    model = whole(brief, remembered)
    return model.replaced(remembered.own) if remembered.own else model


def blank(remembering: Remembering | None, model: ModelState) -> Params:
    """What a rule remembers before the first round: zeros."""
    names = () if remembering is None else remembering.names
    return {name: torch.zeros_like(model.parameters[name]) for name in names}


def start_loss(brief: Brief, data: Dataset) -> float:
    """Mean loss of the model received on a worker's records."""
    module = module_for(brief.blueprint)
    load_into(module, brief.model)
    found = measure(module, data, loss=brief.blueprint.model.loss)
    return found.sums["loss"] / found.count


def moved_norm(trained: Params, received: ModelState) -> float:
    """|w_k - w0|, the L2 norm over all parameters; buffers are estimates and have no gradient."""
    weights = received.parameters.items()
    squares = [(trained[n].double() - w.double()).square().sum() for n, w in weights]
    return math.sqrt(float(sum(squares)))


def _own(
    brief: Brief, data: Dataset, remembered: Remembered, update: Update, *, worker: str
) -> Params:
    """The tensors that a worker keeps to itself, after this round."""
    if brief.personal is None:
        return {}
    if brief.personal.anchor is None:
        # What is as at the start, like a frozen base, need not be kept: `whole` has it.
        first = _first(brief.blueprint, brief.plan.seed).tensors
        return {
            name: tensor
            for name, tensor in update.trained.items()
            if name not in brief.model.names and not torch.equal(tensor, first[name])
        }
    start = brief.model.replaced(remembered.own)
    held = Anchored(brief.personal.anchor, brief.model.parameters)
    return train_locally(replace(brief, model=start, rule=held), data, worker=worker).trained


_firsts: dict[tuple[str, int], ModelState] = {}


def _first(blueprint: Blueprint, seed: int) -> ModelState:
    key = (repr(blueprint), seed)
    first = _firsts.get(key)
    if first is None:
        first = initial_state(blueprint, seed=seed)
        _firsts.clear()  # one training after the other: of the last one is enough
        _firsts[key] = first
    return first  # not looked up again: another thread's training may have cleared it
