"""The list filter's grammar, as a dialect of sqlglot.

The dialect keeps sqlglot's parser for what binds to what but narrows what an operand may be: a name, a
literal, or a condition in parentheses. Every error carries its position.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from sqlglot import exp, tokens
from sqlglot import parser as sql_parser
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel, ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from streams.stores.filter_model import FilterError

MAX_NESTING = 64

MALFORMED = "malformed SQL query"
INVALID = "invalid expression"
UNSUPPORTED = "operation is not supported"


class ListFilterDialect(Dialect):
    """Names, literals and the operators of the list filter language; nothing else of SQL."""

    UNESCAPED_SEQUENCES = {  # noqa: RUF012 (sqlglot declares it as an instance variable)
        "\\0": "\0",
        "\\b": "\b",
        "\\n": "\n",
        "\\r": "\r",
        "\\t": "\t",
        "\\Z": "\x1a",
        "\\\\": "\\",
    }

    class Tokenizer(tokens.Tokenizer):
        """Knows only the language's keywords, so that every other word is a name."""

        QUOTES: ClassVar[list[Any]] = ["'", '"']
        IDENTIFIERS: ClassVar[list[Any]] = ["`"]
        STRING_ESCAPES: ClassVar[list[str]] = ["'", '"', "\\"]
        DROP_UNKNOWN_ESCAPES = True
        COMMENTS: ClassVar[list[Any]] = []
        COMMANDS: ClassVar[set[TokenType]] = set()
        KEYWORDS: ClassVar[dict[str, TokenType]] = {
            "<=": TokenType.LTE,
            ">=": TokenType.GTE,
            "!=": TokenType.NEQ,
            "<>": TokenType.NEQ,
            "AND": TokenType.AND,
            "OR": TokenType.OR,
            "NOT": TokenType.NOT,
            "IN": TokenType.IN,
            "BETWEEN": TokenType.BETWEEN,
            "IS": TokenType.IS,
            "NULL": TokenType.NULL,
            "TRUE": TokenType.TRUE,
            "FALSE": TokenType.FALSE,
            "LIKE": TokenType.LIKE,
            # The token of Postgres's `^@` operator, which sqlglot parses as StartsWith.
            "STARTS_WITH": TokenType.CARET_AT,
            "ORDER BY": TokenType.ORDER_BY,
            "GROUP BY": TokenType.GROUP_BY,
            "ASC": TokenType.ASC,
            "DESC": TokenType.DESC,
            "LIMIT": TokenType.LIMIT,
        }
        SINGLE_TOKENS: ClassVar[dict[str, TokenType]] = {
            "(": TokenType.L_PAREN,
            ")": TokenType.R_PAREN,
            ",": TokenType.COMMA,
            ".": TokenType.DOT,
            "-": TokenType.DASH,
            "+": TokenType.PLUS,
            "<": TokenType.LT,
            ">": TokenType.GT,
            "=": TokenType.EQ,
            ";": TokenType.SEMICOLON,
            "*": TokenType.STAR,
            "`": TokenType.IDENTIFIER,
            "'": TokenType.QUOTE,
            '"': TokenType.QUOTE,
            # Of no use in the language, but they end a name.
            **dict.fromkeys("!#$%&/:?[]\\^{|}~", TokenType.UNKNOWN),
        }

    class Parser(sql_parser.Parser):
        """sqlglot's precedence of operators over operands of our own."""

        RANGE_PARSERS: ClassVar[dict[TokenType, Any]] = {
            kind: sql_parser.Parser.RANGE_PARSERS[kind]
            for kind in (
                TokenType.BETWEEN,
                TokenType.IN,
                TokenType.IS,
                TokenType.LIKE,
                TokenType.CARET_AT,
            )
        }

        def parse_list_filter(self, query: str, words: list[Token]) -> exp.Select:
            """Parse a condition with its optional ORDER BY or GROUP BY."""
            self.reset()
            self.sql = query
            self._tokens = words
            self._tokens_size = len(words)
            self._index = -1
            self._advance()
            select = exp.Select()
            if self._curr.token_type not in (TokenType.ORDER_BY, TokenType.GROUP_BY):
                select.set("where", self._required(self._parse_disjunction()))
            if self._match(TokenType.GROUP_BY):
                select.set("group", self._parse_csv(self._parse_name))
            if self._match(TokenType.ORDER_BY):
                select.set("order", self._parse_csv(self._parse_sort_key))
            if self._index < self._tokens_size:
                self._unexpected()
            return select

        def _parse_unary(self) -> exp.Expr | None:
            if self._match(TokenType.NOT):
                return exp.Not(this=self._required(self._parse_equality()))
            return self._parse_operand()

        def _parse_bitwise(self) -> exp.Expr | None:
            return self._parse_unary()

        def _parse_operand(self) -> exp.Expr:
            token = self._curr
            if self._match(TokenType.L_PAREN):
                inner = self._required(self._parse_disjunction())
                if self._match(TokenType.COMMA):
                    self._fail(f"{INVALID}: a list of values may only follow IN", token)
                if not self._match(TokenType.R_PAREN):
                    self._unexpected()
                return exp.Paren(this=inner).update_positions(token)
            if self._match(TokenType.STRING):
                return exp.Literal(this=token.text, is_string=True).update_positions(token)
            if token.token_type in (TokenType.DASH, TokenType.PLUS, TokenType.DOT, TokenType.NUMBER):
                return exp.Literal(this=self._parse_signed(), is_string=False).update_positions(token)
            if self._match_set((TokenType.TRUE, TokenType.FALSE)):
                return exp.Boolean(this=token.token_type is TokenType.TRUE).update_positions(token)
            if self._match(TokenType.NULL):
                return exp.Null().update_positions(token)
            name = self._parse_name()
            if self._match(TokenType.L_PAREN):
                self._fail(f"{UNSUPPORTED}: function expression", token)
            return name

        def _parse_signed(self) -> str:
            sign = self._prev.text if self._match_set((TokenType.DASH, TokenType.PLUS)) else ""
            # The tokenizer takes a number to begin with a digit.
            point = "." if self._match(TokenType.DOT) else ""
            digits = self._curr.text
            if not self._match(TokenType.NUMBER):
                self._unexpected()
            return sign + point + digits

        def _parse_name(self) -> exp.Expr:
            token = self._curr
            if not self._match_set((TokenType.VAR, TokenType.IDENTIFIER)):
                self._unexpected()
            return exp.Column(this=exp.Identifier(this=token.text)).update_positions(token)

        def _parse_between(self, this: exp.Expr | None) -> exp.Between:
            low = self._parse_operand()
            if not self._match(TokenType.AND):
                self._unexpected()
            return exp.Between(this=this, low=low, high=self._parse_operand())

        def _parse_in(self, this: exp.Expr | None, alias: bool = False) -> exp.In:
            if not self._match(TokenType.L_PAREN):
                self._unexpected()
            values = self._parse_csv(self._parse_operand)
            if not self._match(TokenType.R_PAREN):
                self._unexpected()
            return exp.In(this=this, expressions=values)

        def _parse_is(self, this: exp.Expr | None) -> exp.Expr:
            negated = self._match(TokenType.NOT)
            token = self._curr
            if not self._match(TokenType.NULL):
                self._fail(f"{INVALID}: 'IS' operator can only be used with 'NULL' or 'NOT NULL'", token)
            null = exp.Is(this=this, expression=exp.Null())
            return exp.Not(this=null) if negated else null

        def _parse_sort_key(self) -> exp.Ordered:
            name = self._parse_name()
            descending = self._match(TokenType.DESC)
            if not descending:
                self._match(TokenType.ASC)
            return exp.Ordered(this=name, desc=bool(descending))

        def _required(self, node: exp.Expr | None) -> exp.Expr:
            if node is None:
                self._unexpected()
            return node

        def _unexpected(self) -> NoReturn:
            if self._index >= self._tokens_size:
                raise FilterError(f"{MALFORMED}: unexpected end of query", len(self.sql) + 1)
            token = self._curr
            if token.token_type is TokenType.LIMIT:
                self._fail(f"{UNSUPPORTED}: 'limit' clause", token)
            self._fail(f"{MALFORMED}: syntax error near '{self._text_of(token)}'", token)

        def _fail(self, reason: str, token: Token) -> NoReturn:
            raise FilterError(reason, token.start + 1)

        def _text_of(self, token: Token) -> str:
            return self.sql[token.start : token.end + 1][:60]


_DIALECT = ListFilterDialect()


def parse_tree(query: str) -> exp.Select:
    """Parse a filter into sqlglot's tree, of which `where`, `group` and `order` are set.

    Raises `FilterError` for text that is not of the language.
    """
    tokenizer = _DIALECT.tokenizer()
    try:
        words = tokenizer.tokenize(query)
    except TokenError as error:
        raise FilterError(f"{MALFORMED}: unterminated quote", tokenizer._core._start + 1) from error
    _check_nesting(words)
    try:
        parser = ListFilterDialect.Parser(error_level=ErrorLevel.IMMEDIATE, dialect=_DIALECT)
        return parser.parse_list_filter(query, words)
    except ParseError as error:
        raise FilterError(f"{MALFORMED}: {error.errors[0]['description']}") from error


def _check_nesting(words: list[Token]) -> None:
    """Bound the parser's recursion, which parentheses and runs of NOT drive."""
    depth = negations = 0
    for token in words:
        negations = negations + 1 if token.token_type is TokenType.NOT else 0
        if token.token_type is TokenType.L_PAREN:
            depth += 1
        elif token.token_type is TokenType.R_PAREN:
            depth -= 1
        if depth > MAX_NESTING or negations > MAX_NESTING:
            raise FilterError(f"{UNSUPPORTED}: nested deeper than {MAX_NESTING}", token.start + 1)
