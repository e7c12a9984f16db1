module cofferdam

go 1.26
