"""Formulas as ONNX graphs: values with operators, which add nodes as they are combined."""

import numpy as np
import torch

DOUBLE, FLOAT = np.dtype(np.float64), np.dtype(np.float32)


class Graph:
    """The nodes of a model that skl2onnx puts together.

    Parameters
    ----------
    scope, container
        As skl2onnx gives them to a converter.
    """

    def __init__(self, scope, container):
        self._scope, self._container = scope, container

    def constant(self, array, dtype):
        """A Value that is stored in the file."""
        from onnx import numpy_helper

        array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
        array = np.ascontiguousarray(array, dtype=dtype).reshape(np.shape(array))
        name = self._scope.get_unique_variable_name("constant")
        self._container.initializers.append(numpy_helper.from_array(array, name))
        return Value(self, name, array.dtype)

    def node(self, operator, *inputs, dtype=None, name=None, **attributes):
        """A Value of an ONNX operator; numbers and arrays among its inputs become constants.

        `dtype` is that of the result where it is not that of the first input.
        """
        like = inputs[0].dtype
        names = [self._named(value, like) for value in inputs]
        name = name or self._scope.get_unique_variable_name(operator.lower())
        self._container.add_node(
            operator, names, [name], op_version=self._container.target_opset,
            name=self._scope.get_unique_operator_name(operator), **attributes,
        )  # fmt: skip
        return Value(self, name, np.dtype(dtype or like))

    def _named(self, value, dtype):
        return (value if isinstance(value, Value) else self.constant(value, dtype)).name


class Value:
    """What a node gives, or an input: combined with numbers, arrays and the like by operators."""

    def __init__(self, graph, name, dtype):
        self.graph, self.name, self.dtype = graph, name, dtype

    def __add__(self, other):
        return self.graph.node("Add", self, other)

    def __sub__(self, other):
        return self.graph.node("Sub", self, other)

    def __mul__(self, other):
        return self.graph.node("Mul", self, other)

    def __truediv__(self, other):
        return self.graph.node("Div", self, other)

    def __matmul__(self, other):
        return self.graph.node("MatMul", self, other)

    def __neg__(self):
        return self.graph.node("Neg", self)

    def __lt__(self, other):
        return self.graph.node("Less", self, other, dtype=bool)

    def __gt__(self, other):
        return self.graph.node("Greater", self, other, dtype=bool)

    def __and__(self, other):
        return self.graph.node("And", self, other)

    def __getattr__(self, name):
        """Operators of one argument: abs, sqrt, exp, log, floor, relu, tanh, sigmoid and so on."""
        if name not in _UNARY:
            raise AttributeError(name)
        return lambda: self.graph.node(_UNARY[name], self, dtype=bool if name == "isnan" else None)

    def __or__(self, other):
        return self.graph.node("Or", self, other)

    def negated(self):
        """Whether conditions do not hold."""
        return self.graph.node("Not", self)

    def clip(self, low, high):
        """Values between two numbers."""
        return self.minimum(high).maximum(low)

    def minimum(self, other):
        """The smaller of two."""
        return self.graph.node("Min", self, other)

    def maximum(self, other):
        """The larger of two."""
        return self.graph.node("Max", self, other)

    def where(self, condition, other):
        """These values where a condition holds, elsewhere others."""
        other = other if isinstance(other, Value) else self.graph.constant(other, self.dtype)
        return self.graph.node("Where", condition, self, other, dtype=self.dtype)

    def to(self, dtype):
        """The same numbers in another dtype."""
        from onnx import helper

        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return self.graph.node("Cast", self, dtype=dtype, to=kind)

    def take(self, index):
        """Entries along the first axis."""
        return self.graph.node("Gather", self, index, axis=0)

    def reshape(self, *shape):
        """The same entries in another shape, of which one side may be -1."""
        return self.graph.node("Reshape", self, self.graph.constant(shape, np.int64))

    def flat(self):
        """All entries of each row as columns."""
        return self.graph.node("Flatten", self, axis=1)

    def columns(self, index):
        """Some columns, by a list of their numbers."""
        return self.graph.node("Gather", self, self.graph.constant(index, np.int64), axis=1)

    def norms(self):
        """Euclidean norms of the rows, (n, 1)."""
        axis = self.graph.constant([1], np.int64)
        return self.graph.node("ReduceL2", self, axis, keepdims=1)

    def beside(self, *others):
        """Columns of these and of others."""
        return self.graph.node("Concat", self, *others, axis=1)

    def with_constant(self, constant):
        """With one more column, of a constant."""
        pads = self.graph.constant([0, 0, 0, 1], np.int64)
        return self.graph.node("Pad", self, pads, np.asarray(constant), mode="constant")

    def softmax(self):
        """Probabilities of each row."""
        return self.graph.node("Softmax", self, axis=1)

    def argmax(self):
        """Index of the largest entry of each row, (n,)."""
        return self.graph.node("ArgMax", self, dtype=np.int64, axis=1, keepdims=0)


_UNARY = {
    name.lower(): name
    for name in (
        "Abs Sqrt Reciprocal Exp Log Floor Sign Relu Tanh Sigmoid Softplus Sin Erf IsNaN".split()
    )
}


def inputs_of(graph, operator):
    """The inputs of one of skl2onnx's operators as the columns of one Value, double."""
    columns = [Value(graph, v.full_name, np.dtype(np.void)).to(DOUBLE) for v in operator.inputs]
    return columns[0].beside(*columns[1:]) if columns[1:] else columns[0]
