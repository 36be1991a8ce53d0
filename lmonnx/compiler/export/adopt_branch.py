"""A merged decoder's graph as it is found → the branch that reads a past, or that without."""

from __future__ import annotations

import onnx

from lmonnx.compiler.edits import rename_values, replace_all
from lmonnx.errors import UnsupportedError

BRANCH_INPUT = "use_cache_branch"


def take_branch(model: onnx.ModelProto, where: str, *, cached: bool = True) -> None:
    """Put the branch with a past, or that without, in the place of a merged graph's If.

    optimum's decoder_model_merged.onnx has a graph of the prompt and one of what follows it; the
    second does both, with a past of no tokens. A graph without the two is left as it is.

    Raises:
        UnsupportedError: The input that chooses the branch chooses no single If.
    """
    graph = model.graph
    chosen = [node for node in graph.node if BRANCH_INPUT in node.input]
    if all(value.name != BRANCH_INPUT for value in graph.input):
        return
    if len(chosen) != 1 or chosen[0].op_type != "If":
        raise UnsupportedError(
            f"{where}: {BRANCH_INPUT} is read by {len(chosen)} nodes that are not one If; export "
            "the model from its checkpoint"
        )
    name = "then_branch" if cached else "else_branch"
    branch = next(each.g for each in chosen[0].attribute if each.name == name)
    renamed = dict(zip((each.name for each in branch.output), chosen[0].output, strict=True))
    rename_values(branch.node, renamed)
    nodes = [each for node in graph.node for each in (branch.node if node is chosen[0] else [node])]
    made = {name for node in nodes for name in node.output}
    for inner, outer in renamed.items():
        if outer not in made:
            nodes.append(onnx.helper.make_node("Identity", [inner], [outer], name=f"/{outer}"))
    graph.initializer.extend(branch.initializer)
    replace_all(graph.node, nodes)
    replace_all(graph.input, [value for value in graph.input if value.name != BRANCH_INPUT])
