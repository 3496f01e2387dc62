"""Names of people, places and organisations: real lists and made-up ones.

Coined names are strings of syllables, blended ones halves of two listed names. They make sure
that a model reads a name by its shape and its surroundings, not by having seen it, so that names
typed by a newcomer work too.
"""

import random
from collections.abc import Callable, Sequence

from demo_models.text_frames import Filler, Lexicon, Split, listed

FEMALE_NAMES = Lexicon.from_text("""
    Maria, Anna, Emma, Olivia, Sophia, Isabella, Mia, Charlotte, Amelia, Harper, Evelyn, Abigail,
    Emily, Elizabeth, Sofia, Ella, Grace, Victoria, Chloe, Camila, Lucy, Alice, Julia, Clara, Eva,
    Nora, Hannah, Lily, Zoe, Leah, Hazel, Violet, Aurora, Stella, Natalie, Ruth, Sarah, Laura,
    Jessica, Jennifer, Linda, Patricia, Barbara, Susan, Karen, Nancy, Lisa, Margaret, Sandra,
    Ashley, Kimberly, Donna, Carol, Michelle, Amanda, Melissa, Deborah, Stephanie, Rebecca,
    Sharon, Cynthia, Kathleen, Amy, Angela, Helen, Brenda, Nicole, Samantha, Katherine, Christine,
    Rachel, Carolyn, Janet, Catherine, Heather, Diane, Julie, Joyce, Kelly, Joan, Judith, Martha,
    Cheryl, Megan, Andrea, Jacqueline, Frances, Gloria, Teresa, Kathryn, Sara, Janice, Jean,
    Judy, Rose, Beverly, Denise, Marilyn, Amber, Danielle, Brittany, Diana, Jane, Lori, Tina,
    Ines, Carmen, Lucia, Elena, Giulia, Chiara, Francesca, Paola, Ingrid, Astrid, Freya, Greta,
    Heidi, Petra, Katja, Olga, Irina, Natasha, Svetlana, Yuki, Sakura, Aiko, Mei, Ling, Priya,
    Ananya, Deepa, Lakshmi, Fatima, Aisha, Leila, Yasmin, Zainab, Amina, Nadia, Samira, Amara,
    Ngozi, Zuri, Thandi, Marta, Agata, Zofia, Hana, Eszter, Ilse, Femke, Sanne, Camille, Manon,
    Chantal, Beatriz, Catarina, Rosa, Pilar, Xenia, Ada, Marie, Florence, Rosalind, Dorothy""")

MALE_NAMES = Lexicon.from_text("""
    James, John, Robert, Michael, William, David, Richard, Joseph, Thomas, Charles, Christopher,
    Daniel, Matthew, Anthony, Mark, Donald, Steven, Paul, Andrew, Joshua, Kenneth, Kevin, Brian,
    George, Edward, Ronald, Timothy, Jason, Jeffrey, Ryan, Jacob, Gary, Nicholas, Eric, Jonathan,
    Stephen, Larry, Justin, Scott, Brandon, Benjamin, Samuel, Gregory, Frank, Alexander, Raymond,
    Patrick, Jack, Dennis, Jerry, Tyler, Aaron, Jose, Adam, Henry, Nathan, Douglas, Zachary,
    Peter, Kyle, Walter, Ethan, Jeremy, Harold, Keith, Christian, Roger, Noah, Gerald, Carl,
    Terry, Sean, Austin, Arthur, Lawrence, Jesse, Dylan, Bryan, Joe, Jordan, Billy, Bruce, Albert,
    Willie, Gabriel, Logan, Alan, Juan, Wayne, Roy, Ralph, Randy, Eugene, Vincent, Russell, Louis,
    Philip, Bobby, Johnny, Bradley, Tom, Ben, Sam, Max, Leo, Oscar, Hugo, Felix, Lars, Sven, Erik,
    Bjorn, Nils, Hans, Klaus, Jurgen, Dieter, Stefan, Marco, Luca, Matteo, Giovanni, Paolo,
    Antonio, Carlos, Diego, Javier, Miguel, Pablo, Luis, Pedro, Tiago, Rafael, Ivan, Dmitri,
    Sergei, Boris, Mikhail, Andrei, Kenji, Hiroshi, Takashi, Satoshi, Wei, Jun, Chen, Raj, Arjun,
    Vikram, Amit, Sanjay, Omar, Ali, Ahmed, Hassan, Yusuf, Karim, Tariq, Kofi, Kwame, Chidi,
    Tunde, Sipho, Jakub, Piotr, Tomasz, Milan, Zoltan, Pieter, Bram, Jan, Pierre, Jacques,
    Etienne, Laurent, Alain, Isaac, Galileo, Winston, Ludwig, Wolfgang, Elon, Jim, Bill, Steve""")

FIRST_NAMES = FEMALE_NAMES + MALE_NAMES

SURNAMES = Lexicon.from_text("""
    Smith, Johnson, Williams, Brown, Jones, Garcia, Miller, Davis, Rodriguez, Martinez, Hernandez,
    Lopez, Gonzalez, Wilson, Anderson, Thomas, Taylor, Moore, Jackson, Martin, Lee, Perez,
    Thompson, White, Harris, Sanchez, Clark, Ramirez, Lewis, Robinson, Walker, Young, Allen, King,
    Wright, Scott, Torres, Nguyen, Hill, Flores, Green, Adams, Nelson, Baker, Hall, Rivera,
    Campbell, Mitchell, Carter, Roberts, Gomez, Phillips, Evans, Turner, Diaz, Parker, Cruz,
    Edwards, Collins, Reyes, Stewart, Morris, Morales, Murphy, Cook, Rogers, Gutierrez, Ortiz,
    Morgan, Cooper, Peterson, Bailey, Reed, Kelly, Howard, Ramos, Kim, Cox, Ward, Richardson,
    Watson, Brooks, Chavez, Wood, James, Bennett, Gray, Mendoza, Ruiz, Hughes, Price, Alvarez,
    Castillo, Sanders, Patel, Myers, Long, Ross, Foster, Jimenez, Powell, Jenkins, Perry, Russell,
    Sullivan, Bell, Coleman, Butler, Henderson, Barnes, Fisher, Vasquez, Simmons, Graham, Murray,
    Ford, Castro, Marshall, Owens, Harrison, Fernandez, McDonald, Woods, Washington, Kennedy,
    Wells, Vargas, Henry, Freeman, Webb, Tucker, Guzman, Burns, Crawford, Olson, Simpson, Porter,
    Hunter, Gordon, Mendez, Silva, Shaw, Snyder, Mason, Dixon, Munoz, Hunt, Hicks, Holmes, Palmer,
    Wagner, Black, Robertson, Boyd, Stone, Salazar, Fox, Warren, Mills, Meyer, Rice, Schmidt,
    Daniels, Ferguson, Nichols, Stephens, Soto, Weaver, Ryan, Gardner, Payne, Grant, Dunn, Rossi,
    Russo, Ferrari, Esposito, Bianchi, Romano, Colombo, Ricci, Marino, Greco, Bruno, Conti,
    Mueller, Schneider, Fischer, Weber, Becker, Schulz, Hoffmann, Koch, Richter, Wolf, Schwarz,
    Zimmermann, Krause, Lehmann, Dubois, Durand, Leroy, Moreau, Laurent, Lefebvre, Fournier,
    Mercier, Lambert, Bonnet, Novak, Kowalski, Nowak, Horvath, Kovacs, Popescu, Ivanov, Petrov,
    Sokolov, Volkov, Smirnov, Tanaka, Suzuki, Yamamoto, Watanabe, Nakamura, Kobayashi, Sato, Wang,
    Zhang, Liu, Huang, Zhao, Singh, Kumar, Sharma, Gupta, Khan, Ahmed, Hussain, Okafor, Mensah,
    Adeyemi, Nkosi, Dlamini, Haddad, Mansour, Larsen, Hansen, Nielsen, Jensen, Lindberg, Johansson,
    Svensson, Virtanen, Andersson, de Vries, van Dijk, Jansen, Visser, O'Brien, O'Connor,
    Fitzgerald, MacLeod, Pereira, Santos, Oliveira, Costa, Almeida, Curie, Newton, Darwin, Tesla,
    Lovelace, Turing, Hopper, Henson, Shakespeare, Lincoln, Churchill""")

PLACES = Lexicon.from_text("""
    London, Paris, Berlin, Madrid, Rome, Vienna, Lisbon, Dublin, Oslo, Stockholm, Helsinki,
    Copenhagen, Amsterdam, Brussels, Prague, Warsaw, Budapest, Athens, Bern, Zurich, Geneva, Milan,
    Turin, Naples, Florence, Venice, Barcelona, Seville, Valencia, Porto, Lyon, Marseille, Nice,
    Toulouse, Munich, Hamburg, Frankfurt, Cologne, Dresden, Leipzig, Stuttgart, Manchester,
    Liverpool, Leeds, Bristol, Glasgow, Edinburgh, Cardiff, Belfast, Cork, Oxford, Cambridge,
    New York, Los Angeles, Chicago, Houston, Boston, Seattle, Denver, Dallas, Miami, Atlanta,
    Detroit, San Francisco, San Diego, Portland, Philadelphia, Phoenix, Austin, Las Vegas,
    New Orleans, Toronto, Vancouver, Montreal, Ottawa, Calgary, Mexico City, Havana, Lima, Bogota,
    Quito, Santiago, Buenos Aires, Montevideo, Sao Paulo, Rio de Janeiro, Brasilia, Caracas, Tokyo,
    Kyoto, Osaka, Seoul, Busan, Beijing, Shanghai, Hong Kong, Taipei, Singapore, Bangkok, Hanoi,
    Manila, Jakarta, Kuala Lumpur, Delhi, New Delhi, Mumbai, Kolkata, Chennai, Bangalore, Karachi,
    Lahore, Dhaka, Kathmandu, Colombo, Dubai, Abu Dhabi, Doha, Riyadh, Tehran, Baghdad, Amman,
    Beirut, Jerusalem, Tel Aviv, Ankara, Istanbul, Cairo, Alexandria, Tunis, Algiers, Casablanca,
    Rabat, Dakar, Accra, Lagos, Abuja, Nairobi, Kampala, Kigali, Addis Ababa, Johannesburg,
    Cape Town, Durban, Sydney, Melbourne, Brisbane, Perth, Auckland, Wellington, Moscow, Kyiv,
    Riga, Vilnius, Tallinn, Sofia, Bucharest, Belgrade, Zagreb, Ljubljana, Sarajevo, Reykjavik,
    France, Germany, Spain, Italy, Portugal, Ireland, England, Scotland, Wales, Norway, Sweden,
    Finland, Denmark, Poland, Austria, Switzerland, Belgium, Hungary, Greece, Turkey, Russia,
    Ukraine, Romania, Bulgaria, Croatia, Serbia, Iceland, Canada, Mexico, Brazil, Argentina, Chile,
    Peru, Colombia, Ecuador, Bolivia, Uruguay, Venezuela, Cuba, Jamaica, Japan, China, India,
    Pakistan, Nepal, Bangladesh, Thailand, Vietnam, Indonesia, Malaysia, Australia, New Zealand,
    Egypt, Morocco, Tunisia, Algeria, Nigeria, Ghana, Kenya, Uganda, Ethiopia, Tanzania, Zambia,
    South Africa, South Korea, North Carolina, Israel, Jordan, Lebanon, Iran, Iraq, Saudi Arabia,
    California, Texas, Florida, Ohio, Oregon, Alaska, Hawaii, Virginia, Nevada, Colorado, Europe,
    Asia, Africa, America, Tuscany, Bavaria, Sicily, Siberia, Quebec, Ontario, Queensland, Madeira,
    Kansas City, Salt Lake City, Costa Rica, Sri Lanka, United States, United Kingdom""")

COMPANIES = Lexicon.from_text("""
    Acme, Globex, Initech, Umbrella, Hooli, Vandelay, Wonka, Stark, Wayne, Cyberdyne, Soylent,
    Google, Microsoft, Apple, Amazon, Intel, Oracle, Cisco, Nokia, Ericsson, Siemens, Bosch,
    Philips, Samsung, Toyota, Honda, Nissan, Sony, Panasonic, Hitachi, Boeing, Airbus, Volvo,
    Renault, Peugeot, Fiat, Ferrari, Adidas, Nike, Puma, Nestle, Danone, Unilever, Pfizer, Bayer,
    Novartis, Roche, Shell, Chevron, Walmart, Target, Costco, Netflix, Disney, Pixar, Spotify,
    Twitter, Facebook, LinkedIn, Uber, Tesla, SpaceX, NASA, IBM, BMW, SAP, HSBC, BBC, CNN, UNESCO,
    NATO, UNICEF, Reuters, Bloomberg, Barclays, Santander, Vodafone, Lufthansa, Ryanair, Delta,
    Starbucks, Lego, Ikea, Mattel, Nintendo, Adobe, Nvidia, Qualcomm, Kodak, Xerox, Zenith,
    HuggingFace, OpenData, BlueSky, BrightPath, DataWorks, CloudNine, GreenLeaf, SunPower, Harvard,
    Stanford, Yale, Princeton, Arsenal, Chelsea, Juventus, Interpol, Greenpeace, Red Cross""")

_ONSETS = listed("""
    b, br, c, ch, cl, d, dr, f, fr, g, gr, h, j, k, kr, l, m, n, p, pr, r, s, sh, st, t, th,
    tr, v, w, y, z""")
_VOWELS = ["a", "a", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ia", "io", "ou"]
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "nd", "rn", "st", "th", "ck", "x"]
_FIRST_ENDINGS = listed("""
    a, ia, ina, elle, ette, ie, en, an, o, us, ard, el, in, is, y, on""")
_SURNAME_ENDINGS = listed("""
    son, sen, er, man, ski, ov, ez, ini, etti, well, ford, ley, ham, stein, berg, ard, ic""")
_PLACE_ENDINGS = listed("""
    ton, ville, burg, ford, ham, mouth, land, stad, ia, borg, port, field, dale, by, grad""")
_COMPANY_ENDINGS = listed("""
    ex, ix, tech, soft, corp, net, lab, sys, ware, ora, ium, on, ia, ify, ly, co, a, o""")

COMPANY_SUFFIXES = listed("""
    Inc., Ltd., Corporation, Corp., Group, Industries, Systems, Motors, Bank,
    Airlines, Foods, Pharma, Energy, Software, Technologies, Labs, Holdings, Partners, Media,
    Records, Foundation, Consulting, Electronics, Solutions, Logistics, Insurance, Studios""")
_INSTITUTION_PATTERNS = (
    "University of {}",
    "Bank of {}",
    "{} University",
    "{} City Council",
    "{} United",
    "{} Police Department",
    "{} Times",
    "{} General Hospital",
    "{} Orchestra",
    "{} Museum of Art",
)
_GEOGRAPHY_PATTERNS = (
    "North {}",
    "Lake {}",
    "Mount {}",
    "Port {}",
    "San {}",
    "New {}",
    "Las {}",
    "Saint {}",
    "{} Valley",
    "{} Island",
    "{} City",
    "{} Falls",
)


def coin(rng: random.Random, split: Split, endings: Sequence[str]) -> str:
    """Make up a capitalised name of one or two syllables and an ending."""
    while True:
        syllables = rng.choice((1, 1, 2))
        stem = "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables)
        )
        name = (stem + rng.choice(endings)).capitalize()
        if split.owns(name):
            return name


def blend(rng: random.Random, split: Split, lexicon: Lexicon) -> str:
    """Make up a name from the head of one word of a list and the tail of another."""
    while True:
        head, tail = (lexicon.draw(rng, split).split()[0] for _ in range(2))
        name = head[: rng.randint(2, 4)] + tail[-rng.randint(2, 4) :].lower()
        if split.owns(name) and name not in lexicon.members[split]:
            return name


def coin_noun(rng: random.Random, split: Split) -> str:
    """Make up a lower-case word: stands for all the nouns no list has."""
    return coin(rng, split, ["", "er", "el", "in", "le", "et", "ow"]).lower()


def _listed_or_coined(
    rng: random.Random, split: Split, lexicon: Lexicon, endings: Sequence[str], coined_share: float
) -> str:
    if rng.random() > coined_share:
        return lexicon.draw(rng, split)
    return rng.choice((lambda: coin(rng, split, endings), lambda: blend(rng, split, lexicon)))()


def first_name(rng: random.Random, split: Split) -> str:
    """Draw a first name, one in two made up."""
    return _listed_or_coined(rng, split, FIRST_NAMES, _FIRST_ENDINGS, 0.5)


def surname(rng: random.Random, split: Split) -> str:
    """Draw a surname, one in two made up."""
    return _listed_or_coined(rng, split, SURNAMES, _SURNAME_ENDINGS, 0.5)


def person(rng: random.Random, split: Split) -> str:
    """Draw the name of a person: mostly first name and surname, sometimes initials or one name."""
    first, last = first_name(rng, split), surname(rng, split)
    middle = rng.choice("ABCDEFGHJKLMNPRSTVW")
    forms = (f"{first} {last}", first, f"{first} {middle}. {last}", f"{middle}. {last}")
    return rng.choices(forms, (62, 30, 4, 4))[0]


def titled_person(rng: random.Random, split: Split) -> Filler:
    """Draw a person; one in eight is a surname behind a title, which is no part of the name."""
    if rng.random() < 0.125:
        titles = ("Mr. ", "Mrs. ", "Ms. ", "Dr. ", "Professor ", "President ", "Mr ", "Sir ")
        return Filler(surname(rng, split), rng.choice(titles))
    return Filler(person(rng, split))


def place(rng: random.Random, split: Split) -> str:
    """Draw a city, country or region, one in two made up."""
    if rng.random() < 0.12:
        return rng.choice(_GEOGRAPHY_PATTERNS).format(coin(rng, split, _PLACE_ENDINGS))
    return _listed_or_coined(rng, split, PLACES, _PLACE_ENDINGS, 0.5)


def company(rng: random.Random, split: Split) -> str:
    """Draw a company, from a list, coined, or named after its founders."""
    root = _listed_or_coined(rng, split, COMPANIES, _COMPANY_ENDINGS, 0.6)
    founder = surname(rng, split)
    forms: tuple[Callable[[], str], ...] = (
        lambda: root,
        lambda: f"{root} {rng.choice(COMPANY_SUFFIXES)}",
        lambda: f"{founder} {rng.choice(COMPANY_SUFFIXES)}",
        lambda: f"{founder} & {rng.choice(('Sons', 'Partners', surname(rng, split)))}",
        lambda: root[:3].upper() if len(root) > 3 and split.owns(root[:3]) else root,
    )
    return rng.choices(forms, (55, 25, 10, 5, 5))[0]()


def organisation(rng: random.Random, split: Split) -> Filler:
    """Draw an organisation: mostly a company, sometimes an institution named after a place."""
    if rng.random() < 0.2:
        pattern = rng.choice(_INSTITUTION_PATTERNS)
        lead = "the " if not pattern.endswith(("United", "University")) else ""
        town = _listed_or_coined(rng, split, PLACES, _PLACE_ENDINGS, 0.5)
        return Filler(pattern.format(town), lead)
    return Filler(company(rng, split))
