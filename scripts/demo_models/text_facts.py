"""The world of facts: short contexts, and questions that a few of their words answer.

A fact states slots (who, where, when, what); a question names some of them and asks for another.
Contexts put other facts around it, so that the answer depends on the question.
"""

import random
from dataclasses import dataclass

from demo_models.text_frames import (
    Filler,
    FrameBook,
    Lexicon,
    Passage,
    Span,
    Split,
    join,
    kind_of,
    listed,
    render,
    slots_of,
    with_article,
)
from demo_models.text_names import blend, coin_noun, organisation, person, place
from demo_models.text_words import (
    EVENTS,
    JOBS,
    OFFICES,
    QUALITIES,
    SITES,
    THINGS,
    clock_time,
    moment,
    plural,
    roughen,
    weekday,
)

Question = tuple[str, str]
"""The slot it asks for, and its frame."""


@dataclass(frozen=True)
class Relation:
    """Ways to state one kind of fact and to ask for its parts."""

    statements: FrameBook
    questions: tuple[Question, ...]
    held_out_questions: tuple[Question, ...]

    def questions_of(self, split: Split) -> tuple[Question, ...]:
        """Return the questions of one half."""
        return self.questions if split is Split.TRAINING else self.held_out_questions


@dataclass(frozen=True)
class Inquiry:
    """A question and its context; all spans are characters of the context."""

    question: str
    context: Passage
    """The spans are the fillers of every fact, with their slots: who, where, when, what."""
    gold: Span
    """The answer, and the slot that was asked for."""
    evidence: Span
    """The fact that holds the answer."""

    @property
    def answer(self) -> str:
        """The words that answer the question."""
        return self.context.text[self.gold.start : self.gold.end]


_DEED = Relation(
    FrameBook(
        (
            "{person} {past} {thing} {where} {when}.",
            "{person} {past} {thing} {when}.",
            "{person} {past} {thing} {where}.",
            "{person} {past} {thing}.",
            "{when}, {person} {past} {thing} {where}.",
            "{where}, {person} {past} {thing}.",
            "{thing} was {participle} by {person} {where}.",
            "{thing} was {participle} by {person} {when}.",
            "{thing} was {participle} by {person}.",
            "{thing} was {participle} {where} by {person} {when}.",
            "{person}, a {job}, {past} {thing} {where}.",
            "It is {person} who {past} {thing}.",
            "{when}, {where}, {person} {past} {thing}.",
            "{where} {thing} was {participle} by {person}.",
            "{when} {thing} was {participle} by {person}.",
            "{person} {past} {thing} {when} {where}.",
            "{where} {person} {past} {thing} {when}.",
            "They say that {person} {past} {thing} {where}.",
            "I think {person} {past} {thing} {when}.",
            "My friend {person} {past} {thing} {where}.",
            "{person} has {participle} {thing}.",
            "The person who {past} {thing} was {person}.",
            "{thing} was {participle} {where} {when} by {person}.",
            "The one who {past} {thing} {where} {when} was {person}.",
            "{person} is the one who {past} {thing} {where}.",
            "It seems that {person} {past} {thing} {where} {when}.",
            "Everybody knows that {person} {past} {thing} {when} {where}.",
            "{where}, {when}, {thing} was {participle} by {person}.",
            "{when} it was {person} who {past} {thing}.",
            "We saw how {person} {past} {thing} {where}.",
        ),
        (
            "It was {person} who {past} {thing} {where} {when}.",
            "{when} {person} {past} {thing}.",
            "{thing} was {participle} {when} by {person}.",
        ),
    ),
    (
        ("person", "Who {past} {the_thing}?"),
        ("person", "Who {past} {thing}?"),
        ("person", "Who {past} {the_thing} {where}?"),
        ("person", "Who {past} {the_thing} {when}?"),
        ("person", "By whom was {the_thing} {participle}?"),
        ("person", "What person {past} {the_thing}?"),
        ("person", "Which man {past} {the_thing}?"),
        ("person", "Which woman {past} {thing}?"),
        ("person", "Which friend {past} {the_thing}?"),
        ("person", "Who has {participle} {the_thing}?"),
        ("person", "Tell me who {past} {the_thing}."),
        ("person", "Who was it who {past} {the_thing}?"),
        ("person", "What is the name of the person who {past} {the_thing}?"),
        ("thing", "What did {person} {base}?"),
        ("thing", "What did {person} {base} {where}?"),
        ("thing", "What did {person} {base} {when}?"),
        ("thing", "What was {participle} by {person}?"),
        ("thing", "{person} {past} which thing?"),
        ("thing", "What thing has {person} {participle}?"),
        ("thing", "Which thing was {participle} by {person}?"),
        ("thing", "What was it that {person} {past}?"),
        ("thing", "What thing did {person} {base}?"),
        ("thing", "Which thing has {person} {participle}?"),
        ("thing", "What is the thing that {person} {past}?"),
        ("thing", "{person} {past} something: what is it?"),
        ("thing", "Do you know what {person} {past}?"),
        ("thing", "What could {person} have {participle}?"),
        ("thing", "Tell me what {person} {past}."),
        ("where", "Where did {person} {base} {the_thing}?"),
        ("where", "Where did {person} {base} {thing}?"),
        ("where", "Where was {the_thing} {participle}?"),
        ("where", "At what place was {the_thing} {participle}?"),
        ("where", "At which spot did {person} {base} {thing}?"),
        ("where", "In what place did {person} {base} {the_thing}?"),
        ("where", "Which place did {person} {base} {thing} in?"),
        ("where", "What was the place where {person} {past} {the_thing}?"),
        ("where", "Name the place where {the_thing} was {participle}."),
        ("where", "At which spot was {the_thing} {participle}?"),
        ("where", "Do you know where {person} {past} {the_thing}?"),
        ("where", "Tell me where {person} {past} {the_thing}."),
        ("when", "When did {person} {base} {the_thing}?"),
        ("when", "When did {person} {base} {thing}?"),
        ("when", "When was {the_thing} {participle}?"),
        ("when", "At what moment was {the_thing} {participle}?"),
        ("when", "At which time did {person} {base} {the_thing}?"),
        ("when", "At what hour was {the_thing} {participle}?"),
        ("when", "What time did {person} {base} {the_thing}?"),
        ("when", "On what day was {the_thing} {participle}?"),
        ("when", "What was the time when {person} {past} {the_thing}?"),
        ("when", "Name the time when {the_thing} was {participle}."),
        ("when", "In what time was {the_thing} {participle}?"),
        ("when", "Do you know when {the_thing} was {participle}?"),
        ("when", "Tell me when {person} {past} {the_thing}."),
        ("job", "What is {person}'s job?"),
    ),
    (
        ("person", "Which person {past} {the_thing}?"),
        ("thing", "What has {person} {participle}?"),
        ("thing", "{person} {past} what?"),
        ("where", "At which place did {person} {base} {the_thing}?"),
        ("when", "At what time was {the_thing} {participle}?"),
    ),
)

_RELATIONS = (
    Relation(
        FrameBook(
            (
                "{person} works for {org} in {place}.",
                "{person} works for {org}.",
                "{person} works at {org} in {place}.",
                "{person} has a job at {org}.",
                "{person} is a {job} at {org} in {place}.",
                "{person} is the {office} of {org}.",
                "{person} works as a {job} for {org}.",
                "{person} is employed at {org}.",
                "{person} is a {job} with {org} in {place}.",
                "{org} employs {person} in {place}.",
                "{person} got a job at {org} in {place}.",
                "The {office} of {org} is {person}.",
                "{person} joined {org} as a {job}.",
                "{org} hired {person} as a {job}.",
                "In {place}, {person} works for {org}.",
            ),
            ("{person} is employed by {org} in {place}.", "{person} is now a {job} with {org}."),
        ),
        (
            ("person", "Who works for {org}?"),
            ("person", "Who works at {org}?"),
            ("person", "Who has a job at {org}?"),
            ("person", "Who is the {office} of {org}?"),
            ("person", "Which man works for {org}?"),
            ("person", "Which woman works at {org}?"),
            ("job", "What job has {person} got?"),
            ("place", "In which town is {person} working?"),
            ("org", "What is the employer of {person}?"),
            ("person", "Tell me who works for {org}."),
            ("person", "Who got a job at {org}?"),
            ("org", "What firm does {person} work for?"),
            ("org", "At which company is {person}?"),
            ("office", "What is {person} at {org}?"),
            ("job", "What is the job of {person}?"),
            ("job", "As what does {person} work?"),
            ("place", "What city does {person} work in?"),
            ("place", "Tell me where {person} works."),
            ("org", "Which company does {person} work for?"),
            ("org", "What company does {person} work for?"),
            ("org", "Who does {person} work for?"),
            ("place", "Where does {person} work?"),
            ("place", "In which city does {person} work?"),
            ("job", "What is {person}'s job?"),
            ("job", "What does {person} do?"),
            ("job", "What does {person} work as?"),
        ),
        (
            ("person", "Which person works for {org}?"),
            ("org", "What is the company of {person}?"),
            ("place", "Where is {person} working?"),
            ("job", "What job does {person} have?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{person} lives in {place}.",
                "{person} has lived in {place} since {year}.",
                "{person} moved to {place} in {year}.",
                "{person} lives in {place} with {person2}.",
                "In {year}, {person} moved to {place}.",
                "The flat of {person} is in {place}.",
                "{person} has a house in {place}.",
                "Since {year}, {person} has lived in {place}.",
                "The house of {person} stands in {place}.",
                "{place} is where {person} lives.",
            ),
            ("In {year}, {person} settled in {place}.", "The home of {person} is in {place}."),
        ),
        (
            ("place", "Where does {person} live?"),
            ("place", "In which city does {person} live?"),
            ("place", "Where did {person} move to?"),
            ("place", "What is the home town of {person}?"),
            ("person", "Which man lives in {place}?"),
            ("person", "Which woman has lived in {place}?"),
            ("place", "What city does {person} live in?"),
            ("place", "Which town does {person} live in?"),
            ("place", "Where is the house of {person}?"),
            ("place", "Tell me where {person} lives."),
            ("year", "Since when has {person} lived in {place}?"),
            ("person", "Who has a house in {place}?"),
            ("person", "Tell me who lives in {place}."),
            ("year", "When did {person} move to {place}?"),
            ("person", "Who lives in {place}?"),
            ("person", "Who moved to {place}?"),
            ("person2", "Who does {person} live with?"),
        ),
        (
            ("place", "What is the home of {person}?"),
            ("person", "Which person lives in {place}?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{person} was born in {place} in {year}.",
                "{person} was born in {place}.",
                "{person} was born in {year}.",
                "{person} was born in {year} in {place}.",
                "{person} comes from {place}.",
                "{person} is from {place}.",
                "{person}, born in {place}, is a {job}.",
                "{place} is the home town of {person}.",
                "In {year}, {person} was born.",
                "The town where {person} was born is {place}.",
                "{place} is where {person} was born.",
                "The year of birth of {person} is {year}.",
                "{person} was a child in {place}.",
                "{place} is the {noun} of {person}.",
                "The {noun} of {person} is {place}.",
                "In {place}, {person} was born in {year}.",
                "In {year}, {person} became a child of {place}.",
            ),
            ("{place} is the birthplace of {person}.", "In {year}, {person} was born in {place}."),
        ),
        (
            ("place", "Where was {person} born?"),
            ("place", "Where is {person} from?"),
            ("place", "Where does {person} come from?"),
            ("place", "In which city was {person} born?"),
            ("place", "What is the town of birth of {person}?"),
            ("place", "What is the {noun} of {person}?"),
            ("place", "Tell me the {noun} of {person}."),
            ("place", "What is the place of birth of {person}?"),
            ("place", "What is the native place of {person}?"),
            ("person", "Whose {noun} is {place}?"),
            ("person", "Which woman was born in {place}?"),
            ("person", "Which person comes from {place}?"),
            ("place", "Which city is {person} from?"),
            ("place", "What town does {person} come from?"),
            ("place", "Tell me where {person} was born."),
            ("year", "What year was {person} born?"),
            ("year", "When was {person} born?"),
            ("year", "In which year was {person} born?"),
            ("person", "Who was born in {place}?"),
            ("person", "Who is from {place}?"),
            ("person", "Who comes from {place}?"),
            ("person", "Who was born in {year}?"),
        ),
        (
            ("place", "What is the birthplace of {person}?"),
            ("person", "Which person was born in {place}?"),
            ("year", "In what year was {person} born?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{org} was founded by {person} in {year}.",
                "{org} was founded by {person}.",
                "{org} was founded in {place} in {year}.",
                "{person} founded {org} in {place}.",
                "{person} founded {org} in {year}.",
                "{person} started {org} in {place} in {year}.",
                "In {year}, {person} founded {org}.",
                "The owner of {org} is {person}.",
                "In {place}, {person} founded {org}.",
                "{person} is the founder and owner of {org}.",
                "{org} was started in {year} by {person}.",
                "{org} is a company that {person} founded in {year}.",
            ),
            (
                "In {year}, {person} started {org} in {place}.",
                "The founder of {org} is {person}.",
            ),
        ),
        (
            ("person", "Who founded {org}?"),
            ("person", "Who started {org}?"),
            ("org", "What company did {person} found?"),
            ("org", "Which firm did {person} start?"),
            ("year", "In what year did {person} start {org}?"),
            ("person", "Who is the owner of {org}?"),
            ("org", "What does {person} own?"),
            ("person", "Who is the founder of {org}?"),
            ("person", "Tell me who founded {org}."),
            ("person", "Who created {org}?"),
            ("year", "What year was {org} founded?"),
            ("year", "Since when does {org} exist?"),
            ("org", "What did {person} start?"),
            ("year", "When was {org} founded?"),
            ("year", "When did {person} found {org}?"),
            ("place", "Where was {org} founded?"),
            ("org", "What did {person} found?"),
            ("org", "Which company did {person} found?"),
        ),
        (
            ("person", "By whom was {org} founded?"),
            ("year", "In which year was {org} started?"),
            ("org", "What company did {person} start?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{org} is based in {place}.",
                "{org} is a company based in {place}.",
                "{org} is a company in {place}.",
                "{org} has its headquarters in {place}.",
                "{org} makes {things} in {place}.",
                "{org} makes {things}.",
                "{org} sells {things}.",
                "The firm {org} makes {things} in {place}.",
                "The firm {org} sells {things}.",
                "The offices of {org} are in {place}.",
                "The seat of {org} is in {place}.",
                "In {place}, {org} makes {things}.",
                "{things} are made by {org}.",
                "You can buy {things} from {org}.",
                "The main office of {org} is in {place}.",
                "{org} {makes} {things}.",
                "{org} {makes} {things} in {place}.",
                "The {quality} firm {org} {makes} {things}.",
                "The factory {org} {makes} {things} in {place}.",
                "{org} from {place} {makes} {things}.",
                "The {noun} of {org} is in {place}.",
            ),
            (
                "The company {org} produces {things} in {place}.",
                "The headquarters of {org} are in {place}.",
            ),
        ),
        (
            ("place", "Where is {org} based?"),
            ("place", "Where are the headquarters of {org}?"),
            ("place", "Where is {org}?"),
            ("place", "In which town is {org}?"),
            ("org", "Which firm is in {place}?"),
            ("things", "What things does {org} make?"),
            ("things", "What does {org} {make}?"),
            ("things", "What things does {org} {make}?"),
            ("org", "Who {makes} {things}?"),
            ("org", "Which firm {makes} {things}?"),
            ("place", "Where does {org} {make} {things}?"),
            ("place", "Where is the {noun} of {org}?"),
            ("org", "Which factory is in {place}?"),
            ("place", "What city is {org} in?"),
            ("place", "In what town is {org} based?"),
            ("place", "Where does {org} make {things}?"),
            ("things", "What is made by {org}?"),
            ("org", "Who sells {things}?"),
            ("things", "What can you buy from {org}?"),
            ("org", "Which company is based in {place}?"),
            ("things", "What does {org} make?"),
            ("things", "What does {org} sell?"),
            ("org", "Who makes {things}?"),
            ("org", "Which company sells {things}?"),
        ),
        (
            ("place", "In which city is {org}?"),
            ("things", "What does {org} produce?"),
            ("org", "Which company is in {place}?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{the_event} starts at {clock} in {the_site}.",
                "{the_event} is on {day} at {clock}.",
                "{the_event} took place in {place} on {day}.",
                "{the_event} took place in {the_site} on {day}.",
                "{the_event} will be held in {the_site} on {day}.",
                "{the_event} was held in {place} in {year}.",
                "{the_event} begins at {clock}.",
                "On {day} they have {event} in {the_site}.",
                "You can hear {the_event} in {place} at {clock}.",
                "On {day} you can see {the_event} in {place}.",
                "At {clock}, {the_event} starts in {the_site}.",
                "There will be {event} in {place} on {day}.",
                "Come to {the_event} in {the_site} at {clock}.",
                "{the_event} in {place} is on {day}.",
                "On {day}, {the_event} will be in {place}.",
            ),
            (
                "On {day} there is {event} in {the_site}.",
                "You can see {the_event} in {place} at {clock}.",
            ),
        ),
        (
            ("clock", "When does {the_event} start?"),
            ("clock", "What time is {the_event}?"),
            ("clock", "When does {the_event} begin?"),
            ("clock", "At what hour does {the_event} start?"),
            ("clock", "At which time is {the_event}?"),
            ("day", "Which day of the week is {the_event}?"),
            ("place", "In which town is {the_event}?"),
            ("clock", "Tell me when {the_event} starts."),
            ("clock", "What is the time of {the_event}?"),
            ("day", "What day is {the_event}?"),
            ("day", "On what day is {the_event}?"),
            ("place", "Where can I see {the_event}?"),
            ("the_site", "Where can I see {the_event}?"),
            ("place", "What city is {the_event} in?"),
            ("day", "When is {the_event}?"),
            ("day", "On which day is {the_event}?"),
            ("year", "When was {the_event}?"),
            ("place", "Where is {the_event}?"),
            ("place", "Where was {the_event} held?"),
            ("place", "Where did {the_event} take place?"),
            ("the_site", "Where is {the_event}?"),
            ("the_site", "Where will {the_event} be held?"),
            ("the_site", "Where does {the_event} start?"),
        ),
        (
            ("clock", "At what time does {the_event} start?"),
            ("day", "Which day is {the_event} on?"),
            ("place", "In which city is {the_event}?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{the_thing} is in {the_site}.",
                "{the_thing} is {position}.",
                "{the_thing} belongs to {person}.",
                "{the_thing} costs {price}.",
                "{the_thing} is {colour}.",
                "{person} gave {thing} to {person2}.",
                "{person} gave {person2} {thing}.",
                "You can find {the_thing} {position}.",
                "{person} gave {price} for {thing}.",
                "There is {thing} {position}.",
                "I saw {the_thing} {position}.",
                "{the_thing} lies {position}.",
                "{person} sold {thing} for {price}.",
                "The price of {the_thing} was {price}.",
                "For {price}, {person} got {thing}.",
                "{position}, there is {thing}.",
            ),
            ("You will find {the_thing} {position}.", "{person} paid {price} for {thing}."),
        ),
        (
            ("the_site", "Where is {the_thing}?"),
            ("position", "Where is {the_thing}?"),
            ("person", "Who does {the_thing} belong to?"),
            ("person", "Who gave {person2} {the_thing}?"),
            ("person", "Who gave {thing} to {person2}?"),
            ("person2", "Who did {person} give {the_thing} to?"),
            ("thing", "What did {person} give to {person2}?"),
            ("price", "How much does {the_thing} cost?"),
            ("position", "Where do I find {the_thing}?"),
            ("position", "Where can you see {the_thing}?"),
            ("price", "What is the cost of {the_thing}?"),
            ("position", "Where does {the_thing} lie?"),
            ("position", "Where did you see {the_thing}?"),
            ("position", "Tell me where {the_thing} is."),
            ("price", "What was the price of {the_thing}?"),
            ("price", "How much money is {the_thing}?"),
            ("price", "What did {person} pay for {the_thing}?"),
            ("price", "How much is {the_thing}?"),
            ("price", "What does {the_thing} cost?"),
            ("colour", "What colour is {the_thing}?"),
            ("colour", "What color is {the_thing}?"),
        ),
        (
            ("position", "Where can I find {the_thing}?"),
            ("price", "What is the price of {the_thing}?"),
        ),
    ),
    Relation(
        FrameBook(
            (
                "{person} is {age}.",
                "{person} is a {quality} {job}.",
                "{person} was {a_job}.",
                "{person} is {a_job}.",
                "{person} is married to {person2}.",
                "{person} met {person2} in {place}.",
                "{place} is the capital of {place2}.",
                "{person} has {number} {things}.",
                "{person} has become {a_job}.",
                "Today {person} is {age}.",
                "{person}, who is {age}, is a {job}.",
                "{person} used to be {a_job}.",
                "{person} works as {a_job}.",
                "{person} knows {person2} from {place}.",
                "{person} visited {person2} in {place}.",
                "{person} called {person2}.",
                "{person} {helped} {person2}.",
                "{person} {helped} {person2} in {place}.",
                "{person} {helped} {person2} {when}.",
                "{person2} was {helped} by {person}.",
                "In {place}, {person} {helped} {person2}.",
                "{person} is the {noun} of {person2}.",
                "The {noun} of {person2} is {person}.",
            ),
            (
                "At the moment {person} is {age}.",
                "{person} became {a_job}.",
                "{person} saw {person2} in {place}.",
            ),
        ),
        (
            ("age", "How old is {person}?"),
            ("age", "What is the exact age of {person}?"),
            ("a_job", "What has {person} become?"),
            ("a_job", "What is {person} today?"),
            ("age", "What age is {person}?"),
            ("age", "Tell me how old {person} is."),
            ("a_job", "What did {person} use to be?"),
            ("a_job", "As what does {person} work?"),
            ("person2", "Who did {person} visit?"),
            ("person2", "Whom did {person} call?"),
            ("person2", "Whom did {person} {help}?"),
            ("person2", "Who did {person} {help}?"),
            ("person2", "Whom did {person} {help} in {place}?"),
            ("person2", "Who was {helped} by {person}?"),
            ("person", "Who {helped} {person2}?"),
            ("person", "Which person {helped} {person2}?"),
            ("place", "Where did {person} {help} {person2}?"),
            ("when", "When did {person} {help} {person2}?"),
            ("person", "Who is the {noun} of {person2}?"),
            ("person", "What is the name of the {noun} of {person2}?"),
            ("person2", "Whom did {person} visit in {place}?"),
            ("person", "Who visited {person2}?"),
            ("place", "Where did {person} visit {person2}?"),
            ("a_job", "Who is {person}?"),
            ("a_job", "Who was {person}?"),
            ("a_job", "What is {person}?"),
            ("a_job", "What was {person}?"),
            ("person", "Who is {a_job}?"),
            ("person", "Who was {a_job}?"),
            ("person2", "Who is {person} married to?"),
            ("person2", "Who did {person} meet in {place}?"),
            ("person2", "Who did {person} meet?"),
            ("place", "Where did {person} meet {person2}?"),
            ("place", "What is the capital of {place2}?"),
            ("number", "How many {things} does {person} have?"),
            ("things", "What does {person} have?"),
        ),
        (
            ("age", "What is the age of {person}?"),
            ("person2", "Whom did {person} meet?"),
            ("a_job", "What did {person} become?"),
        ),
    ),
)

_VERBS = tuple(
    tuple(forms.split())
    for forms in listed("""
        buy bought bought, sell sold sold, find found found, lose lost lost, steal stole stolen,
        make made made, build built built, paint painted painted, repair repaired repaired, break
        broke broken, open opened opened, close closed closed, invent invented invented, discover
        discovered discovered, write wrote written, read read read, see saw seen, bring brought
        brought, take took taken, leave left left, hide hid hidden, eat ate eaten, order ordered
        ordered, deliver delivered delivered, receive received received, send sent sent, design
        designed designed, clean cleaned cleaned, borrow borrowed borrowed, throw threw thrown,
        catch caught caught, watch watched watched, show showed shown, draw drew drawn, photograph
        photographed photographed, hear heard heard, win won won, create created created, destroy
        destroyed destroyed, move moved moved""")
)
"""What people do to things: base form, past and participle."""
_CONTACTS = tuple(
    tuple(forms.split())
    for forms in listed("""
        help helped, thank thanked, phone phoned, invite invited, admire admired, follow followed,
        visit visited, greet greeted, paint painted, interview interviewed, trust trusted""")
)
"""What people do to people: base form and past."""
_TRADES = tuple(
    tuple(forms.split())
    for forms in listed("""
        make makes, sell sells, build builds, design designs, repair repairs, export exports,
        import imports, rent rents, collect collects, invent invents""")
)
"""What firms do: with and without an s."""
_RELATED = ("friend", "teacher", "uncle", "boss", "neighbour", "home", "office", "school")
_POSITIONS = ("on", "under", "behind", "next to", "in front of", "above", "beside", "near")
_COLOURS = listed("red, blue, green, yellow, black, white, brown, grey, purple, orange, pink")
_NUMBERS = listed(
    "two, three, four, five, six, seven, eight, nine, ten, twelve, twenty, 15, 30, 100"
)
_CURRENCIES = ("dollars", "euros", "pounds", "cents")
_VERBS_OF_A_FACT = (
    frozenset(("base", "past", "participle")),
    frozenset(("help", "helped")),
    frozenset(("make", "makes")),
)
_VERB_FORMS = frozenset().union(*_VERBS_OF_A_FACT)
_COINED_VERB_SHARE = 0.2
_UNHEARD_OF_SHARE = 0.35
_DESCRIBED_SHARE = 0.35
_PRONOUN_SHARE = 0.2
_FIRST_NAME_SHARE = 0.15


class _Fact:
    """Fillers of one fact; the same slot always gets the same filler."""

    def __init__(self, rng: random.Random, split: Split, subject: Filler | None = None) -> None:
        self._rng, self._split = rng, split
        self._fillers = {"person": subject or Filler(person(rng, split))}
        noun = self._word(THINGS)
        described = self._described(noun)
        job = self._described(JOBS.draw(rng, split))
        event = self._word(EVENTS)
        self._words = self._verbs() | {
            "noun": rng.choice((*_RELATED, coin_noun(rng, split))),
            "thing": with_article(described),
            "the_thing": f"the {rng.choice((described, noun))}",
            "things": plural(self._word(THINGS)),
            "job": job,
            "a_job": with_article(job),
            "event": with_article(event),
            "the_event": f"the {event}",
            "the_site": f"the {SITES.draw(rng, split)}",
            "office": OFFICES.draw(rng, split),
            "quality": QUALITIES.draw(rng, split),
        }

    def _verbs(self) -> dict[str, str]:
        """Draw verbs; an unheard-of one teaches to match words rather than to know them."""
        rng = self._rng
        (base, past, participle), (help_, helped) = rng.choice(_VERBS), rng.choice(_CONTACTS)
        make, makes = rng.choice(_TRADES)
        if rng.random() < _COINED_VERB_SHARE:
            base = help_ = make = coin_noun(rng, self._split)
            past = participle = helped = f"{base.rstrip('e')}ed"
            makes = f"{base}s"
        deed = {"base": base, "past": past, "participle": participle}
        return deed | {"help": help_, "helped": helped, "make": make, "makes": makes}

    def __call__(self, slot: str) -> Filler:
        if slot not in self._fillers:
            self._fillers[slot] = self._draw(kind_of(slot))
        return self._fillers[slot]

    def _draw(self, kind: str) -> Filler:
        if kind in self._words:
            return Filler(self._words[kind])
        rng, split = self._rng, self._split
        if kind == "person":
            return Filler(person(rng, split))
        if kind == "place":
            return Filler(place(rng, split))
        if kind == "org":
            return organisation(rng, split)
        if kind == "when":
            return moment(rng, split)
        return self._draw_detail(kind)

    def _draw_detail(self, kind: str) -> Filler:
        rng, split = self._rng, self._split
        if kind == "where":
            named = rng.random() < 0.4
            core = place(rng, split) if named else f"the {SITES.draw(rng, split)}"
            return Filler(core, "in " if named or rng.random() < 0.5 else "at ")
        if kind == "position":
            preposition = rng.choice(_POSITIONS)
            return Filler(f"{preposition} the {self._word(THINGS)}")
        words = {
            "year": str(rng.randint(1780, 2030)),
            "clock": clock_time(rng).core,
            "day": weekday(rng),
            "price": f"{rng.randint(2, 900)} {rng.choice(_CURRENCIES)}",
            "colour": rng.choice(_COLOURS),
            "age": f"{rng.randint(3, 99)} years old",
            "number": rng.choice(_NUMBERS),
        }
        return Filler(words[kind])

    def _described(self, noun: str) -> str:
        """Put an adjective in front now and then."""
        described = self._rng.random() < _DESCRIBED_SHARE
        return f"{self._word(QUALITIES)} {noun}" if described else noun

    def _word(self, lexicon: Lexicon) -> str:
        """Draw a word, now and then an unheard-of one."""
        if self._rng.random() > _UNHEARD_OF_SHARE:
            return lexicon.draw(self._rng, self._split)
        if self._rng.random() < 0.5:
            return coin_noun(self._rng, self._split)
        return blend(self._rng, self._split, lexicon)


def _roles() -> tuple[str, ...]:
    frames = [
        frame
        for relation in (_DEED, *_RELATIONS)
        for split in Split
        for frame in relation.statements.of(split)
    ]
    return tuple(sorted({kind_of(slot) for frame in frames for slot in slots_of(frame)}))


ROLES = _roles()
"""The kinds of slots that facts have."""


def inquiry(rng: random.Random, split: Split, sentences: int) -> Inquiry:
    """Write a context of so many sentences, and a question that one of them answers."""
    while True:
        relation = _draw_relation(rng)
        frame = rng.choice(relation.statements.of(split))
        asked = [q for q in relation.questions_of(split) if _answers(frame, q)]
        if asked:
            slot, question_frame = rng.choice(asked)
            return _compose(rng, split, frame, slot, question_frame, sentences)


def _draw_relation(rng: random.Random) -> Relation:
    return _DEED if rng.random() < 0.4 else rng.choice(_RELATIONS)


def _stated(frame: str) -> frozenset[str]:
    """Name what a statement tells: "a bicycle" also tells of "the bicycle", and so on."""
    slots = slots_of(frame)
    implied = {"thing": "the_thing", "event": "the_event"}
    verb_forms = frozenset().union(*(forms for forms in _VERBS_OF_A_FACT if slots & forms))
    return slots | {implied[slot] for slot in slots if slot in implied} | verb_forms


def _answers(frame: str, question: Question) -> bool:
    """Tell whether a statement tells the answer and all that the question takes for granted."""
    slot, question_frame = question
    return slot in _stated(frame) and slots_of(question_frame) <= _stated(frame)


def _compose(
    rng: random.Random, split: Split, frame: str, slot: str, question_frame: str, sentences: int
) -> Inquiry:
    fact = _Fact(rng, split)
    question = render(roughen(rng, split, question_frame), fact)
    told, gold = _tell(rng, split, frame, fact, slot, sentences)
    others = [_other_fact(rng, split, question) for _ in range(sentences - 1)]
    position = rng.randrange(sentences)
    before = join(others[:position])
    context = join((*others[:position], told, *others[position:]))
    offset = len(before.text) + 1 if before.text else 0
    evidence = Span(offset, offset + len(told.text), "evidence")
    gold = Span(offset + gold.start, offset + gold.end, slot)
    return Inquiry(_by_first_name(rng, question, fact), context, gold, evidence)


def _tell(
    rng: random.Random, split: Split, frame: str, fact: _Fact, slot: str, sentences: int
) -> tuple[Passage, Span]:
    """State a fact, in longer contexts sometimes by a pronoun behind an introduction."""
    told = render(roughen(rng, split, frame), fact)
    gold = told.span(slot)
    if sentences == 1 or not frame.startswith("{person} ") or rng.random() > _PRONOUN_SHARE:
        return told, gold
    pronoun = Filler(rng.choice(("she", "he")))
    told = render(
        roughen(rng, split, frame), lambda name: pronoun if name == "person" else fact(name)
    )
    introduction = _introduction(rng, split, frame, fact("person"))
    if slot == "person":
        return join((introduction, told)), introduction.span("person")
    gold, offset = told.span(slot), len(introduction.text) + 1
    return join((introduction, told)), Span(gold.start + offset, gold.end + offset, slot)


def _introduction(rng: random.Random, split: Split, told_frame: str, subject: Filler) -> Passage:
    """Say something about a person that belongs to another relation than what follows."""
    frames = [
        frame
        for relation in (_DEED, *_RELATIONS)
        if told_frame not in relation.statements.of(split)
        for frame in relation.statements.of(split)
        if frame.startswith("{person} ")
    ]
    return render(roughen(rng, split, rng.choice(frames)), _Fact(rng, split, subject))


def _by_first_name(rng: random.Random, question: Passage, fact: _Fact) -> str:
    """Ask for "Maria Rossi" as "Maria" now and then."""
    name = fact("person").core
    if "." in name or rng.random() > _FIRST_NAME_SHARE:
        return question.text
    return question.text.replace(name, name.split()[0])


def _other_fact(rng: random.Random, split: Split, question: Passage) -> Passage:
    """State something else, about nothing and nobody that the question names."""
    named = [span for span in question.spans if span.slot not in _VERB_FORMS]
    keys = [question.text[span.start : span.end].split()[-1].lower() for span in named]
    while True:
        frame = rng.choice(_draw_relation(rng).statements.of(split))
        passage = render(roughen(rng, split, frame), _Fact(rng, split))
        if not any(key in passage.text.lower() for key in keys):
            return passage
