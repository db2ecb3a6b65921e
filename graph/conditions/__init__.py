"""The safe rules of a pipeline file: parsing, compiling, evaluating."""

from graph.conditions.rule import Rule, compile_rule
from graph.conditions.syntax import RuleSyntaxError
from graph.conditions.values import MAX_OPERATIONS, MIN_OPERATIONS, Budget, RuleError

__all__ = ["MAX_OPERATIONS", "MIN_OPERATIONS", "Budget", "Rule", "RuleError", "RuleSyntaxError", "compile_rule"]
