// Functions of libm whose last digits differ between machines, written out: the same bits everywhere.
#ifndef LODROP_TRAINER_NUMBER_H
#define LODROP_TRAINER_NUMBER_H

double number_exp(double x);    // e^x; +inf above 709.7, 0 below -708.3
double number_log(double x);    // from 1e-300 to 1e300
double number_cos_pi(double x); // cos(pi x), 0 <= x <= 1

#endif
