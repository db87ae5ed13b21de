"""A search that goes on: what the study of Optuna in a sweep's folder leaves to be done."""

from __future__ import annotations

import warnings
from typing import Any

from omegaconf import DictConfig, open_dict


def resume_study(sweeper: DictConfig) -> None:
    """Asks a sweeper for the trials that are missing, where its study has some already: what was cut off or failed is
    proposed first, with the same values, and so in the same folder.

    Args:
        sweeper: `hydra.sweeper`; `n_trials` becomes what is left, and `sampler.seed` another one, or the sampler would
            draw what it drew before.
    """
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:  # nothing was tried
        return
    trials = study.get_trials(deepcopy=False)
    values: list[Any] = [one.params for one in trials if one.state == TrialState.COMPLETE]
    finished = len(values)
    values += [one.system_attrs["fixed_params"] for one in trials if one.state == TrialState.WAITING]
    for one in trials:
        if one.state == TrialState.RUNNING:  # of a process that is gone
            study.tell(one.number, state=TrialState.FAIL)
        if one.state in (TrialState.RUNNING, TrialState.FAIL) and one.params not in values:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(one.params)
            values.append(one.params)
    with open_dict(sweeper):
        sweeper.n_trials = max(0, sweeper.n_trials - finished)
        if sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(trials)
