"""The matched features of the two EquivalentExplicit estimators, and their teacher."""

import math
from numbers import Integral

import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from .._theory.four_numbers import deq_numbers, require_high_dim
from .._theory.matching import solve_matching
from .._theory.spec import deq_spec
from .distillation import Distillation
from .modules import ExplicitNetwork


class ExplicitFeatures:
    """What makes a network an EquivalentExplicit estimator."""

    _parameter_constraints = {
        "kernel": [StrOptions({"ck", "ntk"})],
        "matching": [StrOptions({"auto", "high_dim"})],
        "n_layers": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "teacher": [HasMethods("predict"), None],
    }

    # peak rate and weight decay: on labels, and from where a teacher's weights are taken over
    _auto_rates = {False: (0.003, 0.3), True: (0.001, 0.0)}

    @classmethod
    def from_deq(cls, deq, **params):
        """Return an unfitted estimator with the parameters of a DEQ.

        Parameters
        ----------
        deq : DEQClassifier or DEQRegressor
            Fitted or not.
        **params
            Parameters that are to differ, for instance ``teacher=deq``.

        Returns
        -------
        object
            An estimator of this class.
        """
        if not isinstance(deq, cls._counterpart):
            remedy = ""
            if hasattr(deq, "named_steps"):
                remedy = (
                    f" Take the step out: {cls.__name__}.from_deq(pipeline[-1]), and put the "
                    "result behind the same steps, make_pipeline(clone(pipeline[:-1]), ...)."
                )
            raise TypeError(
                f"deq must be a {cls._counterpart.__name__}, got {type(deq).__name__}.{remedy}"
            )
        own = cls().get_params(deep=False)
        copied = {k: v for k, v in deq.get_params(deep=False).items() if k in own}
        return cls(**{**copied, **params})

    def _given(self):
        """The four numbers are those of centred networks."""
        return {"center": True, **super()._given()}

    def _make_features(self, scaler, parameters, generator):
        """The matched network on scaled rows, and what it was matched to."""
        input_var = parameters["input_var"]
        setting = "center=False cannot be matched: matching='high_dim'"
        require_high_dim(
            parameters["center"], 0.0, self.kernel, setting, "KernelMatcher(matching='exact')"
        )
        # the DEQ's bias is a constant coordinate of its input, and becomes one of the match's
        bias_var = scaler.bias_var_ / input_var
        tau0 = scaler.tau0_ or 1.0
        spec = deq_spec(
            parameters["activation"], parameters["recurrent_var"], input_var,
            tau0=math.hypot(tau0, bias_var**0.5),
        )  # fmt: skip
        # frozen features have a conjugate kernel only: that one gets the NTK's numbers
        kernel = "ck" if self._solves_readout else self.kernel
        target = deq_numbers(spec, self.kernel)
        match = solve_matching(target, spec.tau0, kernel, self.n_layers)
        size = scaler.n_features_out_, self.width
        features = ExplicitNetwork(
            *size, match.layers, bias_var=bias_var, tau0=tau0, generator=generator,
            dtype=torch.float32,
        )  # fmt: skip
        return features, {"match_": match}

    def _distillation(self, unlabeled):
        """The Distillation from the teacher, or None."""
        if self.teacher is None:
            if unlabeled:
                raise ValueError("X_unlabeled needs a teacher to label its rows.")
            return None
        distillation = Distillation(self.teacher, self._counterpart)
        if self.train == "readout":
            raise ValueError("teacher needs train='all': a readout alone cannot follow a DEQ.")
        return distillation
