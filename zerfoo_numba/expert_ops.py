"""The operations of a mixture of experts; a part of `zerfoo_numba.ops.Ops`."""

from zerfoo_numba.kernels import experts_sum, matvec_experts, router


class ExpertOps:
    def route(self, experts, weights, logits, normed, scale):
        """The experts (T, U) of every token by its logits (T, E), and their weights."""
        (T, E), U = logits.shape, experts.shape[1]
        router.route(self.device, experts, weights, logits, normed, scale)
        self._record("route", router.route_cost, T=T, E=E, U=U)

    def place(self, tiles, sources, slots, experts, E):
        """The pairs of token and expert into tiles of slots, each tile of one expert."""
        router.place(self.device, tiles, sources, slots, experts, E)
        self._record("place", router.place_cost, pairs=experts.size, tiles=tiles.size)

    def gather(self, out, x, sources, U):
        """The rows of x (T, D) in the slots of their pairs: out (S, D)."""
        (S, D), T = out.shape, x.shape[0]
        router.gather(self.device, out, x, sources, U)
        self._record("gather", router.gather_cost, T=T, S=S, D=D)

    def matmul_experts(self, out, weight, x, experts, E):
        """out = weight x of the expert that `experts` names for each row, or tile of rows."""
        matvec_experts.matmul_experts(self.device, out, weight, x, experts)
        self._record_experts("experts", out, weight, experts, E)

    def matmul_experts_int8(self, out, weight, x, experts, E):
        matvec_experts.matmul_experts_int8(self.device, out, weight, x, experts)
        self._record_experts("experts_int8", out, weight, experts, E)

    def _record_experts(self, name, out, weight, experts, E):
        shape = {"S": out.shape[0], "N": weight.rows, "K": weight.columns, "E": E}
        more = {"chosen": experts.size, "type_name": weight.type, "packed": weight.packed}
        self._record(name, matvec_experts.cost, **shape, **more)

    def experts_sum(self, out, y, weights, slots, placed):
        """out (T, D): the results of each token's experts, weighted and added up."""
        (T, U), D = weights.shape, out.shape[1]
        experts_sum.experts_sum(self.device, out, y, weights, slots, placed)
        self._record("experts_sum", experts_sum.cost, T=T, U=U, D=D)

    def add_shared(self, out, shared, x, gate):
        """out += sigmoid(gate . x) shared."""
        T, D = out.shape
        experts_sum.add_shared(self.device, out, shared, x, gate)
        self._record("add_shared", experts_sum.shared_cost, T=T, D=D)
