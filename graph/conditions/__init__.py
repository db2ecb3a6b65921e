"""The safe rules of a pipeline file: parsing, compiling, evaluating."""

from graph.conditions.rule import MAX_OPERATIONS, MIN_OPERATIONS, Budget, Rule, RuleError, RuleSyntaxError, compile_rule

__all__ = [
    "MAX_OPERATIONS",
    "MIN_OPERATIONS",
    "Budget",
    "Rule",
    "RuleError",
    "RuleSyntaxError",
    "compile_rule",
]
