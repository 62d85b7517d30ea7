"""Right and wrong answers to every exercise of the lessons, one file a lesson."""

from exercises import Exercise

from bank import lesson0, lesson1, lesson2, lesson3, lesson4, lesson5, lesson6, lesson7, lesson8

BANK: list[Exercise] = [
    *lesson0.EXERCISES,
    *lesson1.EXERCISES,
    *lesson2.EXERCISES,
    *lesson3.EXERCISES,
    *lesson4.EXERCISES,
    *lesson5.EXERCISES,
    *lesson6.EXERCISES,
    *lesson7.EXERCISES,
    *lesson8.EXERCISES,
]
